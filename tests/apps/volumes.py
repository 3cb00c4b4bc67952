"""Functions that run a program among the files of one volume, each in a container of its own that stays between calls."""

from __future__ import annotations

from typing import Any

import modal

app = modal.App("volumes")
vol = modal.Volume.from_name("mounted", create_if_missing=True)
other = modal.Volume.from_name("mounted-deleted", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11")
# What loads models from a cache on a Volume, without the weights' frameworks.
models = image.uv_pip_install("transformers==4.57.1", "safetensors==0.6.2").env(
    {"HF_HUB_CACHE": "/data/hub", "HF_HUB_OFFLINE": "1"}
)
scope: dict[str, Any] = {"vol": vol, "other": other}


def execute(program: str) -> Any:
    """What the program leaves in `result`; its other names stay for the next one in this container."""
    scope["result"] = None
    exec(program, scope)
    return scope["result"]


@app.function(image=image, volumes={"/data": vol}, scaledown_window=300)
def one(program: str) -> Any:
    return execute(program)


@app.function(image=image, volumes={"/data": vol}, scaledown_window=300)
def two(program: str) -> Any:
    return execute(program)


@app.function(image=image, volumes={"/data": vol}, single_use_containers=True)
def fresh(program: str) -> Any:
    return execute(program)


@app.function(image=image, volumes={"/data": vol.with_mount_options(read_only=True)})
def reader(program: str) -> Any:
    return execute(program)


@app.function(image=image, volumes={"/part": vol.with_mount_options(sub_path="users/ann")})
def part(program: str) -> Any:
    return execute(program)


@app.function(image=image, volumes={"/part": vol.with_mount_options(sub_path="escape/deep")}, retries=0)
def escaping(program: str) -> Any:
    return execute(program)


@app.function(image=image, volumes={"/other": other}, scaledown_window=300)
def doomed(program: str) -> Any:
    return execute(program)


@app.function(image=models, volumes={"/data": vol.with_mount_options(read_only=True)})
def loader(program: str) -> Any:
    return execute(program)
