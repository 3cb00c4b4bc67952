"""Reads files of a volume inside a container, as the host's own program does beside it."""

from __future__ import annotations

import modal
from reads import read

app = modal.App("bench-volumes")
vol = modal.Volume.from_name("bench", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11").add_local_python_source("reads")


@app.function(image=image, volumes={"/data": vol}, timeout=3600, memory=4096)
def inside(names: dict[str, str]) -> dict[str, float]:
    return {what: read(what, f"/data/{name}") for what, name in names.items()}
