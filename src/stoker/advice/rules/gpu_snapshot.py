"""STK005: a GPU class loads its model anew at every cold start."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice import edits
from stoker.advice.app import App
from stoker.advice.edits import Edit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import loads_model, moves_to_gpu
from stoker.advice.rules.base import Rule
from stoker.advice.unit import Method, Unit

_WARM = 5 * 60  # seconds; who keeps containers that long has few cold starts
_GPU_SNAPSHOT = "enable_gpu_snapshot"


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        if not unit.is_class or not unit.uses_gpu or unit.open:
            continue
        loading = [method for method in unit.enters if loads_model(app, unit, method)]
        if not loading:
            continue
        snapshot = unit.value("enable_memory_snapshot")
        if snapshot in (None, False):
            yield _missing(app, unit, loading)
        elif snapshot is True:
            yield from _incomplete(app, unit, loading)


def _missing(app: App, unit: Unit, loading: list[Method]) -> Finding:
    window = unit.value("scaledown_window")
    stays = (isinstance(window, (int, float)) and window >= _WARM) or bool(unit.value("min_containers"))
    message = f"`{unit.name}` loads its model at every cold start; a memory snapshot starts with it loaded, GPU memory included."
    if stays:
        message += " Its containers stay for a while, so it matters for the first call and when it scales up."
    changes = [*_options(app, unit, {"enable_memory_snapshot": "True"}), *_snap(app, loading)]
    return Finding(
        RULE.id, Severity.NOTE if stays else Severity.WARNING, app.source.place(unit.decorator), message, Fix(changes)
    )


def _incomplete(app: App, unit: Unit, loading: list[Method]) -> Iterator[Finding]:
    """What is wrong with a class that has `enable_memory_snapshot=True`."""
    late = [method for method in loading if not method.runs_before_snapshot(app.scope)]
    options = unit.value("experimental_options")
    gpu = options is None or (isinstance(options, dict) and options.get(_GPU_SNAPSHOT, False) is False)
    early = [m for m in loading if m.runs_before_snapshot(app.scope) and _touches_gpu(app, unit, m)]
    if gpu and early:
        yield Finding(
            RULE.id,
            Severity.ERROR,
            app.source.place(early[0].node.decorator_list[0]),
            f"`{early[0].node.name}` runs before the snapshot, where there is no GPU without {_GPU_SNAPSHOT}, and moves the model to one.",
            Fix(_options(app, unit, {})),
        )
    elif late and len(late) == len(loading) and not unit.inherits and not unit.restores:
        yield Finding(
            RULE.id,
            Severity.WARNING,
            app.source.place(late[0].node.decorator_list[0]),
            f"`{late[0].node.name}` runs after the restore, so the snapshot of `{unit.name}` does not hold the model.",
            Fix([*(_options(app, unit, {}) if gpu else []), *_snap(app, late)]),
        )


def _snap(app: App, methods: list[Method]) -> list[Edit]:
    calls = [method.decorators["enter"] for method in methods]
    return [
        edit for call in calls if call is not None for edit in edits.set_options(app.source, call, {"snap": "True"})
    ]


def _options(app: App, unit: Unit, options: dict[str, str]) -> list[Edit]:
    """Gives the unit these options, and the one that lets snapshots hold GPU memory."""
    found: list[Edit] = []
    given = unit.options.get("experimental_options")
    if given is None:
        options["experimental_options"] = f'{{"{_GPU_SNAPSHOT}": True}}'
    elif isinstance(given, ast.Dict):
        entries = zip(given.keys, given.values, strict=True)
        value = next((value for key, value in entries if app.scope.value(key) == _GPU_SNAPSHOT), None)
        if value is None:
            found += edits.add_items(app.source, given, [f'"{_GPU_SNAPSHOT}": True'])
        elif not app.scope.value(value):
            found.append(Edit(app.source.start(value), app.source.end(value), "True"))
    return [*found, *unit.set_options(app.source, options)]


def _touches_gpu(app: App, unit: Unit, method: Method) -> bool:
    return any(moves_to_gpu(app.scope, call) for call in app.calls(unit, method))


RULE = Rule("STK005", "no-gpu-snapshot", "The model loads again at every cold start", check)
