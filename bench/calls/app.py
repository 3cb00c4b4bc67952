"""Functions that do nothing, so that only the way to them and back is measured."""

import modal

app = modal.App("bench-calls")
image = modal.Image.debian_slim(python_version="3.11")


@app.function(image=image, max_containers=1, scaledown_window=600)
def one(x: int) -> int:
    return x


@app.function(image=image, min_containers=2, max_containers=2, scaledown_window=600)
def two(x: int) -> int:
    return x


@app.function(image=image, max_containers=1, scaledown_window=600)
@modal.concurrent(max_inputs=32)
def concurrent(x: int) -> int:
    return x


@app.function(image=image, max_containers=1, scaledown_window=600)
@modal.concurrent(max_inputs=64)
async def concurrent_async(x: int) -> int:
    return x


@app.function(image=image, max_containers=1, scaledown_window=600)
@modal.batched(max_batch_size=50, wait_ms=20)
def batched(xs: list[int]) -> list[int]:
    return xs
