"""STK004: one input at a time on a GPU that could take many."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stoker.advice import edits
from stoker.advice.app import App
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import loads_model
from stoker.advice.rules.base import Rule
from stoker.advice.rules.media import makes_media
from stoker.advice.rules.volumes import modal
from stoker.advice.unit import Method, Unit

_TAKES_MANY = re.compile(r"\b(list|List|Sequence|Iterable|tuple|ndarray|Tensor|DataFrame|Batch\w*)\b")
_MANY_NAME = re.compile(
    r"batch|texts|prompts|inputs|items|images|documents|sentences|paths|urls|chunks|rows", re.IGNORECASE
)
_NOT_SERVING = re.compile(r"train|tune|download|convert|compile|benchmark|evaluate|prepare|build|setup", re.IGNORECASE)


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        if not unit.uses_gpu or unit.open or _is_meant(app, unit):
            continue
        wasteful = [method for method in unit.called if _takes_one(method)]
        if not wasteful or len(wasteful) < len(unit.called):
            continue
        if not _keeps_model(app, unit) and not _serves(unit):
            continue
        message = f"Each container of `{unit.name}` works on one input at a time, and the next call takes another GPU."
        if not any(method.web for method in wasteful):
            message += f" `@{modal(app)}batched` on a method that takes lists does so with the model's own batching."
        concurrent = f"@{modal(app)}concurrent(max_inputs=32, target_inputs=25)"
        yield Finding(
            RULE.id,
            Severity.WARNING,
            app.source.place(wasteful[0].node.decorator_list[0] if unit.is_class else unit.decorator),
            message,
            Fix([edits.add_decorator(app.source, unit.decorator, concurrent)]),
        )


def _keeps_model(app: App, unit: Unit) -> bool:
    return unit.is_class and any(loads_model(app, unit, method) for method in unit.enters)


def _is_meant(app: App, unit: Unit) -> bool:
    """Whether it shares its containers already, or does what fills a GPU by itself."""
    shares = bool({"concurrent", "clustered"} & unit.decorators.keys()) or unit.has("allow_concurrent_inputs")
    return shares or unit.has("schedule") or bool(_NOT_SERVING.search(unit.name)) or makes_media(app, unit)


def _takes_one(method: Method) -> bool:
    if method.decorators.keys() & {"batched", "concurrent"} or _NOT_SERVING.search(method.node.name):
        return False
    if method.web:
        return True
    if not method.parameters:
        return False
    return not any(
        (parameter.annotation is not None and _TAKES_MANY.search(ast.unparse(parameter.annotation)))
        or (parameter.annotation is None and _MANY_NAME.search(parameter.arg))
        for parameter in method.parameters
    )


def _serves(unit: Unit) -> bool:
    """Whether a function without a class calls something of the module that stays loaded, or is a web server."""
    method = unit.methods[0] if unit.methods else None
    if method is None or unit.is_class:
        return any(each.web for each in unit.methods)
    if method.web:
        return True
    names = {node.id for node in method.nodes() if isinstance(node, ast.Name)}
    return any(
        re.search(r"model|pipe|llm|engine", name, re.IGNORECASE) and unit.scope.is_assigned(name) and not name.isupper()
        for name in names
    )


RULE = Rule("STK004", "single-input-gpu", "A GPU works on one input at a time", check)
