"""The edits that give a unit a Volume for weights, shared by the rules that miss one."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from stoker.advice import edits
from stoker.advice.app import App, Unit
from stoker.advice.edits import Edit
from stoker.advice.image import Image, method

CACHE_VARIABLES = (
    "HF_HUB_CACHE", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "SENTENCE_TRANSFORMERS_HOME", "TORCH_HOME", "XDG_CACHE_HOME",
)  # fmt: skip
MODELS = "/models"
_DEFAULT_CACHES = ("/root/.cache/huggingface/hub", "/root/.cache/torch")


def caches(app: App, unit: Unit) -> dict[str, Any]:
    """The variables that say where downloads go, with their paths, as the image, the options and the module set them."""
    found = {name: value for name, value in unit.environment().items() if name in CACHE_VARIABLES}
    for node in ast.walk(app.source.tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Subscript) and app.scope.dotted(target.value) == "os.environ":
                    name = app.scope.value(target.slice)
                    if name in CACHE_VARIABLES:
                        found[name] = app.scope.value(node.value)
    return found


def under(path: object, mounts: list[str]) -> bool:
    """Whether a path lies on one of the mounts. A path that cannot be told does, for all we know."""
    if not isinstance(path, str):
        return True
    return any(path == mount or path.startswith(mount.rstrip("/") + "/") for mount in mounts)


def default_cache_is_mounted(mounts: list[str]) -> bool:
    return any(under(path, mounts) for path in _DEFAULT_CACHES)


def mount(app: App, unit: Unit, path: str, *, point_cache: bool = False) -> list[Edit]:
    """Mounts a Volume at the path, one of the module's or a new `model_vol`; with `point_cache` hub downloads go there too."""
    source = app.source
    found: list[Edit] = []
    volume = next((name for name in _volumes(app) if "model" in name or "cache" in name), "") or next(
        iter(_volumes(app)), ""
    )
    if not volume:
        volume = "model_vol"
        made = f'{volume} = {modal(app)}Volume.from_name("model-cache", create_if_missing=True)\n\n\n'
        found.append(edits.add_before(source, unit.node, made))
    options = {}
    given = _own_option(unit, "volumes")
    if isinstance(given, ast.Dict):
        found += edits.add_items(source, given, [f'"{path}": {volume}'])
    else:
        options["volumes"] = f'{{"{path}": {volume}}}'
    if point_cache:
        changes = cache_variable(app, unit, path)
        if isinstance(changes, str):
            options["env"] = changes
        else:
            found += changes
    return [*found, *edits.set_options(source, unit.decorator, options)] if options else found


def cache_variable(app: App, unit: Unit, path: str) -> list[Edit] | str:
    """Lets hub downloads go to the path: edits of the image or of the given `env`, else the value for an `env` to add."""
    variables = f'{{"HF_HUB_CACHE": "{path}"}}'
    if unit.image is not None and unit.image.base is not None:
        return [_env_step(app, unit.image, variables)]
    given = _own_option(unit, "env")
    if isinstance(given, ast.Dict):
        return edits.add_items(app.source, given, [f'"HF_HUB_CACHE": "{path}"'])
    return variables


def modal(app: App) -> str:
    """What to write before a name of the client in this module: usually "modal."."""
    for node in app.source.tree.body:
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.name == "modal":
                return f"{alias.asname or alias.name}."
    return "modal."


def _env_step(app: App, image: Image, variables: str) -> Edit:
    source = app.source
    steps = [step for step in image.steps if not method(step).startswith("add_local")]
    last = steps[-1]
    at = source.end(last)
    several_lines = last.lineno != (last.end_lineno or last.lineno) and "\n" in source.segment(last)
    if not several_lines:
        return Edit(at, at, f".env({variables})")
    assert isinstance(last.func, ast.Attribute)
    dot_line = last.func.end_lineno or last.func.lineno
    line = source.text[source.line_start(dot_line) : at]
    indent = line[: len(line) - len(line.lstrip())]
    if not line.lstrip().startswith("."):
        return Edit(at, at, f".env({variables})")
    return Edit(at, at, f"\n{indent}.env({variables})")


def _volumes(app: App) -> Mapping[str, ast.Call]:
    found = {}
    for node in app.source.tree.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name) and app.scope.dotted(node.value.func).startswith("modal.Volume."):
            found[target.id] = node.value
    return found


def _own_option(unit: Unit, name: str) -> ast.expr | None:
    """The option's value where the unit's own decorator gives it."""
    return next((keyword.value for keyword in unit.decorator.keywords if keyword.arg == name), None)
