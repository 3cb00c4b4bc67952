"""Gives back what it gets, however large."""

import modal

app = modal.App("large")


@app.function(image=modal.Image.debian_slim(python_version="3.11"))
def echo(value: bytes) -> bytes:
    return value
