"""Generators: such as fail after they yielded, and one that yields much."""

import modal

app = modal.App("generators")


@app.function()
@modal.concurrent(max_inputs=20)
def breaks(count: int, size: int):
    """`count` items, the last of them of `size` bytes, and an error at once."""
    yield from range(count - 1)
    yield bytes(size)
    raise ValueError(f"after {count} items")


@app.function()
async def breaks_async(count: int, size: int):
    for number in range(count - 1):
        yield number
    yield bytes(size)
    raise ValueError(f"after {count} items")


@app.function(timeout=600)
def much(count: int, size: int):
    for number in range(count):
        yield number, bytes(size)


@app.function(timeout=600)
def relay(count: int, size: int) -> tuple[int, str]:
    """A caller in a container."""
    received = 0
    try:
        for _ in breaks.remote_gen(count, size):
            received += 1
    except ValueError as error:
        return received, str(error)
    return received, ""
