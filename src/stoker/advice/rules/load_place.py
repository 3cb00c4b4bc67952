"""STK013: the model is loaded for every call, or where the module is imported."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator

from stoker.advice import edits
from stoker.advice.app import App
from stoker.advice.edits import Edit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.loads import Load, as_load, loads
from stoker.advice.rules.base import Rule
from stoker.advice.rules.volumes import modal
from stoker.advice.scope import statements
from stoker.advice.unit import Method, Unit

_PREPARES = re.compile(
    r"download|prefetch|fetch|prepare|convert|train|tune|warm|cache|export|quantize|make_|build", re.IGNORECASE
)


def check(app: App) -> Iterator[Finding]:
    for unit in app.units:
        for method in unit.methods:
            if _PREPARES.search(method.node.name) or unit.has("schedule"):
                continue
            if unit.is_class and method.node.name == "__init__":
                yield from _in_init(app, unit, method)
            elif method.is_called and not method.web:
                yield from _in_call(app, unit, method)
    yield from _at_import(app)


def _in_call(app: App, unit: Unit, method: Method) -> Iterator[Finding]:
    guarded = {id(inner) for node in method.nodes() if isinstance(node, ast.If) for inner in ast.walk(node)}
    found = [load for load in loads(app.scope, method.calls()) if load.model and id(load.call) not in guarded]
    if not found or _is_cached(method):
        return
    load = found[0]
    changes = _move_to_enter(app, unit, method, load) if unit.is_class else _make_class(app, unit, method, load)
    yield Finding(
        RULE.id,
        Severity.WARNING,
        app.source.place(load.call),
        f"`{method.node.name}` loads the model anew for every call; `@modal.enter` does it once for a container.",
        Fix(changes) if changes else None,
        help=""
        if changes
        else "Move it to a method with `@modal.enter()` of an `@app.cls`, and keep the model in `self`.",
    )


def _in_init(app: App, unit: Unit, method: Method) -> Iterator[Finding]:
    found = [load for load in loads(app.scope, method.calls()) if load.model]
    if not found:
        return
    source = app.source
    start = source.line_start(method.node.lineno)
    indent = source.indent(method.node)
    changes = None
    if not method.parameters and not unit.enters:
        end = source.start(method.node.body[0])
        header = source.text[start:end]
        changes = [Edit(start, end, f"{indent}@{modal(app)}enter()\n" + header.replace("__init__", "load_model", 1))]
    yield Finding(
        RULE.id,
        Severity.WARNING,
        source.place(found[0].call),
        f"The constructor of `{unit.name}` loads the model; it also runs where the class is only called from, and no snapshot holds it.",
        Fix(changes) if changes else None,
        help=""
        if changes
        else "Load it in a method with `@modal.enter()`; declare parameters with `modal.parameter()`.",
    )


def _at_import(app: App) -> Iterator[Finding]:
    if not app.units:
        return
    for statement in statements(app.source.tree.body):
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        for call in ast.walk(value) if value is not None else ():
            load = as_load(app.scope, call) if isinstance(call, ast.Call) else None
            if load is not None and load.model:
                yield Finding(
                    RULE.id,
                    Severity.WARNING,
                    app.source.place(load.call),
                    "The model is loaded where the module is imported: on the machine that deploys too, and in the containers of every function.",
                    help="Move it to a method with `@modal.enter()` of an `@app.cls`, and keep the model in `self`.",
                )
                break


def _is_cached(method: Method) -> bool:
    """Whether its decorators keep what it returns."""
    return any("cache" in ast.unparse(getattr(each, "func", each)) for each in method.node.decorator_list)


def _own_statement(method: Method, load: Load) -> tuple[ast.Assign, str] | None:
    """The statement `name = <load>` directly in the method's body, when it needs nothing of the call."""
    local = {parameter.arg for parameter in method.parameters}
    for statement in method.node.body:
        if not any(node is load.call for node in ast.walk(statement)):
            local |= {
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            local |= {
                a.asname or a.name
                for n in ast.walk(statement)
                if isinstance(n, (ast.Import, ast.ImportFrom))
                for a in n.names
            }
            continue
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            return None
        target = statement.targets[0]
        name = target.id if isinstance(target, ast.Name) else _self_attribute(target)
        used = {node.id for node in ast.walk(statement.value) if isinstance(node, ast.Name)}
        return (statement, name) if name and not used & local else None
    return None


def _self_attribute(target: ast.expr) -> str:
    owned = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    return target.attr if owned and isinstance(target, ast.Attribute) else ""


def _move_to_enter(app: App, unit: Unit, method: Method, load: Load) -> list[Edit]:
    """Takes the statement to an `@modal.enter` method, and lets the rest use `self.name`."""
    own = _own_statement(method, load)
    if own is None:
        return []
    statement, name = own
    source = app.source
    value = source.segment(statement.value)
    changes = [_drop(app, statement), *_to_self(app, method, name)]
    if unit.enters:
        body = unit.enters[0].node.body[-1]
        at = source.line_start((body.end_lineno or body.lineno) + 1)
        changes.append(Edit(at, at, f"{source.indent(body)}self.{name} = {value}\n"))
    else:
        hook = f"@{modal(app)}enter()\ndef load_model(self):\n    self.{name} = {value}\n\n"
        changes.append(edits.add_before(source, method.node, hook))
    return changes


def _make_class(app: App, unit: Unit, method: Method, load: Load) -> list[Edit]:
    """Turns an `@app.function` into a class that loads once, and its callers with it."""
    own = _own_statement(method, load)
    if own is None or isinstance(method.node, ast.AsyncFunctionDef):
        return []
    statement, name = own
    source, node = app.source, method.node
    if source.indent(node):
        return []
    class_name = "".join(word.capitalize() for word in node.name.split("_"))
    assert isinstance(unit.decorator.func, ast.Attribute)
    at = source.end(unit.decorator.func)
    first = source.line_start(node.lineno)
    end = source.line_start((node.end_lineno or node.lineno) + 1)
    inner = edits.apply(
        source.text[first:end],
        [
            Edit(edit.start - first, edit.end - first, edit.text)
            for edit in (_drop(app, statement), *_to_self(app, method, name))
        ],
    )
    inner = inner.replace(
        f"def {node.name}(", f"def {node.name}(self, " if node.args.args else f"def {node.name}(self", 1
    )
    hook = f"    @{modal(app)}enter()\n    def load_model(self):\n        self.{name} = {source.segment(statement.value)}\n\n"
    text = f"class {class_name}:\n{hook}    @{modal(app)}method()\n{textwrap.indent(inner, '    ')}"
    changes = [Edit(at - len("function"), at, "cls"), Edit(first, end, text)]
    for use in ast.walk(source.tree):
        calls = isinstance(use, ast.Attribute) and isinstance(use.value, ast.Name) and use.value.id == node.name
        if calls and isinstance(use, ast.Attribute) and not first <= source.start(use) < end:
            changes.append(Edit(source.start(use), source.start(use), f"{class_name}()."))
    return changes


def _drop(app: App, statement: ast.stmt) -> Edit:
    start = app.source.line_start(statement.lineno)
    return Edit(start, app.source.line_start((statement.end_lineno or statement.lineno) + 1), "")


def _to_self(app: App, method: Method, name: str) -> list[Edit]:
    """`self.name` for each later use of the local name."""
    uses = [
        node
        for node in ast.walk(method.node)
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
    ]
    return [Edit(app.source.start(node), app.source.start(node), "self.") for node in uses]


RULE = Rule("STK013", "load-outside-enter", "The model is loaded outside of enter", check)
