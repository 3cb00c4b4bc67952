"""Functions whose best settings are known: the time they take is made of sleep."""

import threading
import time
import uuid
from pathlib import Path

import modal

app = modal.App("tuned")
slots = threading.BoundedSemaphore(4)


@app.function()
@modal.batched(max_batch_size=2, wait_ms=30)
def batched(xs: list[int]) -> list[int]:
    """A batch takes a quarter of a second up to 8 inputs, and 150 ms more for each one beyond."""
    time.sleep(0.25 + 0.15 * max(0, len(xs) - 8))
    return [x + 1 for x in xs]


@app.cls()
class Model:
    size: str = modal.parameter(default="small")

    @modal.method()
    def answer(self, x: int, *, fail: bool = False) -> int:
        """Four at a time; the others wait."""
        if fail:
            raise ValueError("asked to fail")
        with slots:
            time.sleep(0.25)
        return x


@app.function()
def quick(x: int) -> int:
    return x


@app.cls(enable_memory_snapshot=True)
@modal.concurrent(max_inputs=3)
class Snapshotted:
    starts: str = modal.parameter()  # a directory that gets a file with each start

    @modal.enter()
    def note(self) -> None:
        (Path(self.starts) / uuid.uuid4().hex).touch()

    @modal.method()
    def answer(self, x: int) -> int:
        return x
