"""A deployed app whose tests replace `VERSION`, and that shows when its functions begin and lets tests say when they end."""

import time
from pathlib import Path

import modal

VERSION = 1
app = modal.App("shop")
image = modal.Image.debian_slim(python_version="3.11")


@app.function(image=image)
def version() -> int:
    print("this is version", VERSION)
    return VERSION


@app.function(image=image)
def hold(directory: str, name: str) -> int:
    """Runs until the file `release` appears in a directory of the machine; only for containers that see its files."""
    (Path(directory) / f"{name}.{time.time_ns()}.begun").touch()
    while not (Path(directory) / "release").exists():
        time.sleep(0.02)
    return VERSION


@app.cls(image=image)
class Clerk:
    name: str = modal.parameter()
    desk: int = modal.parameter(default=1)

    @modal.method()
    def greet(self) -> str:
        return f"{self.name} at desk {self.desk}, version {VERSION}"


@app.local_entrypoint()
def main(directory: str, name: str) -> None:
    hold.remote(directory, name)
