"""Functions that fail in every way a function can, and one that does not."""

import os
import threading
import time

import modal

app = modal.App("failures")
image = modal.Image.debian_slim(python_version="3.11")


@app.function(image=image)
def ok(x: int) -> int:
    return x + 1


@app.function(image=image, max_containers=2)
def leave_at(x: int, fatal: int) -> int:
    """Ends the interpreter for one of its inputs."""
    if x == fatal:
        print("leaving now", flush=True)
        os._exit(3)
    return x


@app.function(image=image, timeout=1)
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@app.function(image=image)
def returns_lock() -> object:
    return threading.Lock()


@app.function(image=image)
def raises_unpicklable() -> None:
    error = ValueError("with a lock inside")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


@app.function(image=image)
def take(value: object) -> str:
    return type(value).__name__


@app.function(image=image, gpu="A100")
def on_missing_gpu() -> None:
    pass


@app.cls(image=image)
class BrokenEnter:
    @modal.enter()
    def start(self) -> None:
        print("entering", flush=True)
        raise RuntimeError("the model file is missing")

    @modal.method()
    def work(self) -> None:
        pass
