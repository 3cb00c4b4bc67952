"""What runs on the server under fire."""

import modal

app = modal.App("fuzz")
image = modal.Image.debian_slim(python_version="3.11")


@app.function(image=image, min_containers=1)
def square(x: int) -> int:
    return x * x


@app.function(image=image)
def count(n: int):
    yield from range(n)
