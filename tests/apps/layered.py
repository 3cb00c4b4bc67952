"""Functions on an image with a layer of its own, and one beside it."""

import modal

app = modal.App("layered")
image = modal.Image.debian_slim().run_commands("echo whole > /content")


@app.function(image=image, scaledown_window=600)
def warm() -> str:
    with open("/content") as file:
        return file.read().strip()


@app.function(image=image)
def cold() -> str:
    return "started"


@app.function(image=modal.Image.debian_slim())
def other() -> str:
    return "other"
