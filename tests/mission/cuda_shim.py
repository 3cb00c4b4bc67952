"""A test shim, never part of the product: on machines without a GPU, moving a model to "cuda" leaves it on the CPU.

It lets code that says `.to("cuda")` run as it is written. It says nothing about whether that code works on a GPU.
"""

from typing import Any

from diffusers import DiffusionPipeline

_to = DiffusionPipeline.to


def to(self: Any, *arguments: Any, **options: Any) -> Any:
    return _to(self, *("cpu" if argument == "cuda" else argument for argument in arguments), **options)


DiffusionPipeline.to = to
