"""Whether a unit draws images, or makes music or video: one such input fills a GPU by itself, and takes its time."""

from __future__ import annotations

import ast
import re

from stoker.advice.app import App
from stoker.advice.loads import as_load
from stoker.advice.unit import Unit

_VIDEO = re.compile(
    r"ltx|mochi|cogvideo|hunyuanvideo|hunyuan-video|\bwan\d|wan-ai|wanpipeline|animatediff|stable-?video|stablevideodiffusion|svd|text-?to-?video"
    r"|image-?to-?video|videopipeline|export_to_video|allegro|kandinsky5",
    re.IGNORECASE,
)


_MUSIC = re.compile(r"MusicGen|AudioGen|AudioLDM|StableAudio|ACEStep", re.IGNORECASE)


def makes_media(app: App, unit: Unit) -> bool:
    """Whether it runs a pipeline of diffusers, or makes music or video in any way."""
    if makes_video(app, unit):
        return True
    for method in unit.methods:
        for call in method.calls():
            load = as_load(app.scope, call)
            if load is not None and (load.name.startswith("diffusers.") or _MUSIC.search(load.name)):
                return True
            if load is not None and re.search(r"(Diffusion|Flux|Image\w*|Inpaint\w*)Pipeline", load.name):
                return True
    return False


def makes_video(app: App, unit: Unit) -> bool:
    """Whether it calls a video model or writes a video, by the names of models, pipelines and helpers in its code."""
    for method in unit.methods:
        for node in method.nodes():
            if isinstance(node, ast.Call):
                if _VIDEO.search(app.scope.dotted(node.func)):
                    return True
                load = as_load(app.scope, node)
                values = [app.scope.value(argument) for argument in node.args] if load is not None else []
                if any(isinstance(value, str) and _VIDEO.search(value) for value in values):
                    return True
    return False
