"""Where the downloads of a unit go, and the edits that keep them on a Volume; shared by the rules that miss one."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from stoker.advice import edits
from stoker.advice.app import App
from stoker.advice.edits import Edit
from stoker.advice.image import Image, method
from stoker.advice.loaders import HUB, Cache
from stoker.advice.loads import in_order, loads, server
from stoker.advice.unit import Unit

MODELS = "/models"


def downloads(app: App, unit: Unit) -> Iterator[tuple[ast.Call, str, Cache]]:
    """The calls of a unit that download weights, each with what does so and the cache they go to."""
    for each in unit.methods:
        calls = in_order(app.calls(unit, each))
        for load in loads(app.scope, calls):
            if load.downloads and not load.small:
                yield load.call, load.name, load.cache
        for call in calls:
            if name := server(app.scope, call):
                yield call, name, HUB


def variables(app: App, unit: Unit, cache: Cache) -> dict[str, Any]:
    """Those that move the cache, with the paths that the image, the options and the module give them."""
    found = {name: value for name, value in unit.environment().items() if name in cache.variables}
    for node in ast.walk(app.source.tree):
        name, value = _set_in_environ(app, node)
        if name in cache.variables:
            found[name] = app.scope.value(value)
    return found


def keeps(app: App, unit: Unit, cache: Cache, call: ast.Call) -> bool:
    """Whether what the call downloads goes to one of the unit's mounts. What cannot be told does, for all we know."""
    mounts = unit.mounts
    if mounts is None:
        return True
    given = [keyword.value for keyword in call.keywords if keyword.arg in cache.arguments]
    if given:
        return any(is_under(app.scope.value(node), mounts) for node in given)
    places = variables(app, unit, cache)
    moved = [
        value if not isinstance(value, str) else value.rstrip("/") + cache.variables[name]
        for name, value in places.items()
    ]
    return any(is_under(path, mounts) for path in (*moved, cache.home))


def mount(app: App, unit: Unit, path: str, *, point: Cache | None = None) -> list[Edit]:
    """Mounts a Volume at the path, one of the module's or a new `model_vol`; with `point` that cache goes there too."""
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
    if point is not None:
        changes = cache_variable(app, unit, path, point.variable)
        if isinstance(changes, str):
            options["env"] = changes
        else:
            found += changes
    return [*found, *unit.set_options(source, options)] if options else found


def cache_variable(app: App, unit: Unit, path: str, variable: str = HUB.variable) -> list[Edit] | str:
    """Lets downloads go to the path: edits of the image or of the given `env`, else the value for an `env` to add."""
    entries = f'{{"{variable}": "{path}"}}'
    if unit.image is not None and unit.image.base is not None:
        return [_env_step(app, unit.image, entries)]
    given = _own_option(unit, "env")
    if isinstance(given, ast.Dict):
        return edits.add_items(app.source, given, [f'"{variable}": "{path}"'])
    return entries


def modal(app: App) -> str:
    """What to write before a name of the client in this module: usually "modal."."""
    for node in ast.walk(app.source.tree):
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.name == "modal":
                return f"{alias.asname or alias.name}."
    return "modal."


def is_under(path: object, mounts: list[str]) -> bool:
    """Whether the path is on one of the mounts. What cannot be told is, for all we know."""
    if not isinstance(path, str):
        return True
    return any(path == mount or path.startswith(mount.rstrip("/") + "/") for mount in mounts)


def _set_in_environ(app: App, node: ast.AST) -> tuple[str, ast.expr | None]:
    """Name and value of `os.environ["NAME"] = value` and `os.environ.setdefault("NAME", value)`."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        target = node.targets[0]
        if app.scope.dotted(target.value) == "os.environ":
            return str(app.scope.value(target.slice)), node.value
    if isinstance(node, ast.Call) and app.scope.dotted(node.func) == "os.environ.setdefault" and len(node.args) == 2:
        return str(app.scope.value(node.args[0])), node.args[1]
    return "", None


def _env_step(app: App, image: Image, entries: str) -> Edit:
    source = app.source
    steps = [step for step in image.steps if not method(step).startswith("add_local")]
    last = steps[-1]
    at = source.end(last)
    several_lines = last.lineno != (last.end_lineno or last.lineno) and "\n" in source.segment(last)
    if not several_lines:
        return Edit(at, at, f".env({entries})")
    assert isinstance(last.func, ast.Attribute)
    dot_line = last.func.end_lineno or last.func.lineno
    line = source.text[source.line_start(dot_line) : at]
    indent = line[: len(line) - len(line.lstrip())]
    if not line.lstrip().startswith("."):
        return Edit(at, at, f".env({entries})")
    return Edit(at, at, f"\n{indent}.env({entries})")


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
