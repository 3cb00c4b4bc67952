"""The nodes a workflow may use. A picture is a batch, as in ComfyUI: here a list of PIL images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageOps

Batch = list[Image.Image]
INT = ("INT", {"default": 512, "min": 0, "max": 16777215})
FLOAT = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 3600.0})
STRING = ("STRING", {"default": ""})
IMAGE = ("IMAGE",)
SCALINGS = {"nearest-exact": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
SCALINGS |= {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


class Interrupted(Exception):
    """The prompt was told to stop."""


@dataclass(frozen=True)
class Run:
    """What a node may use while it works. `progress(value, maximum)` tells the caller, and raises Interrupted when it is to stop."""

    workspace: Path
    progress: Callable[[int, int], None]


@dataclass(frozen=True)
class Node:
    """`function(run, **inputs)` returns one value per output; a node with `is_output` returns what its caller may fetch."""

    function: Callable[..., Any]
    inputs: dict[str, tuple[Any, ...]]
    outputs: tuple[str, ...] = ("IMAGE",)
    is_output: bool = False
    category: str = "image"

    def info(self, name: str) -> dict[str, Any]:
        """What /object_info says of it."""
        return {
            "name": name,
            "display_name": name,
            "description": (self.function.__doc__ or "").strip(),
            "category": self.category,
            "python_module": "nodes",
            "input": {"required": {key: list(kind) for key, kind in self.inputs.items()}},
            "input_order": {"required": list(self.inputs)},
            "output": list(self.outputs),
            "output_name": list(self.outputs),
            "output_is_list": [False] * len(self.outputs),
            "output_node": self.is_output,
        }


def empty_image(run: Run, width: int, height: int, batch_size: int, color: int) -> tuple[Batch]:
    """A picture of one colour, 0xRRGGBB."""
    red, green, blue = color.to_bytes(3, "big")
    return ([Image.new("RGB", (width, height), (red, green, blue)) for _ in range(batch_size)],)


def blend(run: Run, image1: Batch, image2: Batch, blend_factor: float, blend_mode: str) -> tuple[Batch]:
    """The second picture laid over the first."""
    over = (
        ImageChops.multiply(*pair) if blend_mode == "multiply" else pair[1] for pair in zip(image1, image2, strict=True)
    )
    return ([Image.blend(below, above, blend_factor) for below, above in zip(image1, over, strict=True)],)


def scale(run: Run, image: Batch, upscale_method: str, width: int, height: int, crop: str) -> tuple[Batch]:
    """A picture of another size."""
    if crop == "center":
        return ([ImageOps.fit(picture, (width, height), SCALINGS[upscale_method]) for picture in image],)
    return ([picture.resize((width, height), SCALINGS[upscale_method]) for picture in image],)


def invert(run: Run, image: Batch) -> tuple[Batch]:
    """The negative."""
    return ([ImageOps.invert(picture) for picture in image],)


def load_image(run: Run, image: str) -> tuple[Batch]:
    """A picture that was uploaded."""
    return ([Image.open(run.workspace / "input" / image).convert("RGB")],)


def save_image(run: Run, images: Batch, filename_prefix: str) -> dict[str, Any]:
    """Writes output/PREFIX_00001_.png and so on; the prefix may name a folder."""
    folder, _, stem = filename_prefix.rpartition("/")
    directory = (run.workspace / "output" / folder).resolve()
    if not directory.is_relative_to(run.workspace / "output"):
        raise ValueError("Saving image outside the output folder is not allowed.")
    directory.mkdir(parents=True, exist_ok=True)
    number = 1 + max(
        (int(file.stem.split("_")[-2]) for file in directory.glob(f"{stem}_[0-9][0-9][0-9][0-9][0-9]_.png")), default=0
    )
    saved = []
    for offset, picture in enumerate(images):
        name = f"{stem}_{number + offset:05}_.png"
        picture.save(directory / name)
        saved.append({"filename": name, "subfolder": folder, "type": "output"})
    return {"images": saved}


NODES = {
    "EmptyImage": Node(empty_image, {"width": INT, "height": INT, "batch_size": INT, "color": INT}),
    "ImageBlend": Node(
        blend, {"image1": IMAGE, "image2": IMAGE, "blend_factor": FLOAT, "blend_mode": (["normal", "multiply"],)}
    ),
    "ImageScale": Node(
        scale,
        {
            "image": IMAGE,
            "upscale_method": (list(SCALINGS),),
            "width": INT,
            "height": INT,
            "crop": (["disabled", "center"],),
        },
    ),
    "ImageInvert": Node(invert, {"image": IMAGE}),
    "LoadImage": Node(load_image, {"image": ("STRING", {"image_upload": True})}),
    "SaveImage": Node(save_image, {"images": IMAGE, "filename_prefix": STRING}, outputs=(), is_output=True),
}
