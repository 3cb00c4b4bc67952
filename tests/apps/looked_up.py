"""An app that clients look at: functions, a class, web endpoints, a server that is never started."""

import os

import modal

app = modal.App("looked-up")
image = modal.Image.debian_slim(python_version="3.11")
volume = modal.Volume.from_name("looked-up", create_if_missing=True)


@app.function(image=image, timeout=77, retries=2, max_containers=3, scaledown_window=60)
def say(word: str) -> str:
    print("said", word)
    return word


@app.function(image=image)
def twice(word: str) -> str:
    print("twice", word)
    return say.remote(word) + say.remote(word)


@app.function(image=image)
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MODAL_")}


@app.function(image=image, restrict_modal_access=True)
def restricted_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MODAL_")}


@app.function(image=image, volumes={"/volume": volume})
def about_volume() -> tuple[float, str | None]:
    info = volume.info()
    return info.created_at.timestamp(), info.created_by


@app.function(image=image)
@modal.concurrent(max_inputs=8)
def together(word: str, seconds: float) -> None:
    import time

    print("begins", word)
    time.sleep(seconds)
    print("ends", word)


@app.cls(image=image)
class Speaker:
    @modal.method()
    def say(self, word: str) -> str:
        return word

    @modal.fastapi_endpoint()
    def web(self) -> str:
        return "answered"


@app.function(image=image)
@modal.fastapi_endpoint()
def spawning(word: str) -> dict[str, str]:
    print("request for", word)
    return {"call": say.spawn(word).object_id}


@app.function(image=image)
@modal.fastapi_endpoint()
def failing() -> None:
    raise ValueError("a secret of the request")


@app.server(image=image, port=8399, unauthenticated=True, exit_grace_period=7, startup_timeout=41)
class Sleeper:
    @modal.enter()
    def start(self) -> None:
        pass
