"""An app whose import fails inside a container."""

import modal

app = modal.App("broken-import")

if not modal.is_local():
    raise RuntimeError("no such library in the container")


@app.function(image=modal.Image.debian_slim(python_version="3.11"))
def work() -> None:
    pass


@app.local_entrypoint()
def main() -> None:
    work.remote()
