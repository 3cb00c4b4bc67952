"""Functions for the fault tests. Each notes every run of every input in a file, so that a test can count runs."""

import os
import time

import modal

app = modal.App("storm")
image = modal.Image.debian_slim(python_version="3.11")


def lines_of(x: int) -> list[str]:
    """What `chatty` prints: short lines, and a long one that no pipe takes at once."""
    return [*(f"chatty {x} says {i} " + "." * (i % 97) for i in range(400)), f"chatty {x} shouts " + "!" * 200_000]


def work(kind: str, x: int) -> tuple[str, int]:
    time.sleep(0.001 * (x % 3))
    return kind, x


@app.function(image=image, max_containers=2, retries=3)
def plain(x: int) -> tuple[str, int]:
    return work("plain", x)


@app.function(image=image, max_containers=2)
@modal.concurrent(max_inputs=8)
def concurrent(x: int) -> tuple[str, int]:
    return work("concurrent", x)


@app.function(image=image, max_containers=2)
@modal.batched(max_batch_size=20, wait_ms=20)
def batched(xs: list[int]) -> list[tuple[str, int]]:
    assert 1 <= len(xs) <= 20
    return [work("batched", x) for x in xs]


@app.function(
    image=image, max_containers=2, retries=modal.Retries(max_retries=5, initial_delay=0.0, backoff_coefficient=1.0)
)
def shaky(x: int) -> tuple[str, int]:
    """Fails on its own, too."""
    if os.urandom(1)[0] < 20:
        raise RuntimeError(f"shaky on {x}")
    return work("shaky", x)


@app.function(image=image, max_containers=2)
def chatty(x: int) -> tuple[str, int]:
    for line in lines_of(x):
        print(line)
    return work("chatty", x)
