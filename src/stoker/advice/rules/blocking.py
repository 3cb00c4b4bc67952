"""STK011: a call that blocks, in a coroutine that shares its thread with other inputs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stoker.advice import edits
from stoker.advice.app import App
from stoker.advice.edits import Edit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import as_load
from stoker.advice.rules.base import Rule
from stoker.advice.scope import parent
from stoker.advice.unit import Method, Unit

_BLOCKING = re.compile(
    r"^(time\.sleep|requests\.(get|post|put|patch|delete|head|options|request)|httpx\.(get|post|put|patch|delete|request|stream)"
    r"|urllib\.request\.(urlopen|urlretrieve)|subprocess\.(run|call|check_call|check_output|getoutput)|os\.(system|wait|waitpid))$"
)
_REMOTE = {"remote", "spawn"}
_ASYNC_LOADERS = re.compile(r"async", re.IGNORECASE)


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        models = _models(app, unit)
        for method in unit.called:
            if isinstance(method.node, ast.AsyncFunctionDef) and _shares(unit, method):
                yield from _blocks(app, unit, method, models)


def _blocks(app: App, unit: Unit, method: Method, models: set[str]) -> Iterator[Finding]:
    awaited = {id(node.value) for node in method.nodes() if isinstance(node, ast.Await)}
    iterated = {id(node.iter) for node in method.nodes() if isinstance(node, (ast.AsyncFor, ast.comprehension))}
    iterated |= {
        id(item.context_expr) for node in method.nodes() if isinstance(node, ast.AsyncWith) for item in node.items
    }
    for call in method.calls():
        if id(call) in awaited or id(call) in iterated:
            continue
        name, fix = _blocking(app, call, models)
        if name:
            yield Finding(
                RULE.id,
                Severity.WARNING,
                app.source.place(call),
                f"`{name}` blocks the event loop of `{unit.name}`: while it runs, none of the container's other inputs goes on.",
                fix,
            )


def _blocking(app: App, call: ast.Call, models: set[str]) -> tuple[str, Fix | None]:
    """What a call blocks with, "" when it does not, and how it would not."""
    source = app.source
    name = app.scope.dotted(call.func)
    if name == "time.sleep":
        edit = Edit(source.start(call.func), source.end(call.func), "await asyncio.sleep")
        return name, Fix([*edits.add_import(source, "import asyncio"), edit])
    parts = name.split(".")
    if _BLOCKING.match(name) or (parts[0] == "self" and len(parts) in (2, 3) and parts[1] in models):
        bracket = source.end(call.func)
        arguments = source.text[bracket + 1 : source.end(call) - 1]
        separator = ", " if arguments.strip() and arguments[0] != "\n" else "," if arguments.strip() else ""
        threaded = f"asyncio.to_thread({source.segment(call.func)}{separator}"
        return name, Fix([*edits.add_import(source, "import asyncio"), *_await(app, call, threaded, bracket + 1)])
    if isinstance(call.func, ast.Attribute) and call.func.attr in _REMOTE and _is_modal_call(app, call.func.value):
        end = source.end(call.func)
        awaited = f"{source.segment(call.func)}.aio"
        return ast.unparse(call.func), Fix(_await(app, call, awaited, end))
    return "", None


def _await(app: App, call: ast.Call, head: str, until: int) -> list[Edit]:
    """Writes `await` and the new head of a call, in brackets where more is done with its result."""
    start, end = app.source.start(call), app.source.end(call)
    if isinstance(parent(app.source.tree, call), (ast.Attribute, ast.Subscript)):
        return [Edit(start, until, f"(await {head}"), Edit(end, end, ")")]
    return [Edit(start, until, f"await {head}")]


def _shares(unit: Unit, method: Method) -> bool:
    """Whether several inputs run in one event loop."""
    for decorators in (unit.decorators, method.decorators):
        call = decorators.get("concurrent")
        if call is not None:
            most = next((unit.scope.value(k.value) for k in call.keywords if k.arg == "max_inputs"), None)
            return most != 1
    return False


def _models(app: App, unit: Unit) -> set[str]:
    """The attributes in which `enter` keeps models that are called in the ordinary, blocking way."""
    found = set()
    for method in unit.enters:
        for node in method.nodes():
            if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
                continue
            load = as_load(app.scope, _innermost(node.value))
            if load is None or not load.model or _ASYNC_LOADERS.search(load.name):
                continue
            found |= {
                target.attr
                for target in node.targets
                if isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == "self"
            }
    return found


def _innermost(call: ast.Call) -> ast.Call:
    """`X.from_pretrained(...)` of `X.from_pretrained(...).to("cuda")`."""
    while isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Call):
        call = call.func.value
    return call


def _is_modal_call(app: App, owner: ast.expr) -> bool:
    """Whether `owner.remote` is surely one of the client: a unit of this module, or a method of one."""
    units = {id(unit.node) for unit in app.units}
    if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Call):
        owner = owner.value.func
    return id(app.scope.defined(owner)) in units


RULE = Rule("STK011", "blocking-in-async", "Blocking code under asyncio concurrency", check)
