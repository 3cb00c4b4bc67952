"""The app that a source defines: its functions and classes with their decorators, as the rules look at them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from stoker.advice import image as images
from stoker.advice.image import Image
from stoker.advice.scope import Scope
from stoker.advice.source import Source
from stoker.advice.unit import RENAMED, Def, Method, Unit

_SHARED = {"image", "secrets", "volumes"}  # what an App gives to all its functions
_APPS = {"modal.App", "modal.Stub"}
_DEEPEST = 3  # helpers that call helpers


@dataclass
class App:
    """`helpers` are the module's plain functions by name."""

    source: Source
    scope: Scope
    units: list[Unit] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    helpers: dict[str, Def] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Source) -> App:
        scope = Scope(source.tree)
        app = cls(source, scope)
        later = _registered_by_call(scope, source.tree)
        for node in _definitions(source.tree):
            unit = _unit(scope, node, later.get(id(node)))
            if unit is not None:
                app.units.append(unit)
            elif not isinstance(node, ast.ClassDef):
                app.helpers.setdefault(node.name, node)
        app.images = list(images.all_images(scope, source.tree))
        return app

    def calls(self, unit: Unit, method: Method) -> Iterator[ast.Call]:
        """The calls in a method, and in the helpers of the module and of its class that it calls."""
        yield from self._reached(unit, method, {id(method.node)}, _DEEPEST)

    def _reached(self, unit: Unit, method: Method, seen: set[int], depth: int) -> Iterator[ast.Call]:
        own = {each.node.name: each for each in unit.methods if not each.decorators}
        for call in method.calls():
            yield call
            helper = None
            if isinstance(call.func, ast.Name) and isinstance(self.scope.defined(call.func), Def):
                node = self.helpers.get(call.func.id)
                helper = Method(node, {}) if node is not None else None
            elif isinstance(call.func, ast.Attribute) and self.scope.dotted(call.func.value) == "self":
                helper = own.get(call.func.attr)
            if helper is not None and depth and id(helper.node) not in seen:
                seen.add(id(helper.node))
                yield from self._reached(unit, helper, seen, depth - 1)


def _definitions(tree: ast.Module) -> Iterator[Def | ast.ClassDef]:
    """Functions and classes, also those that are made in functions, but no methods."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop(0)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield child
            if (isinstance(child, ast.stmt) and not isinstance(child, ast.ClassDef)) or isinstance(
                child, (ast.ExceptHandler, ast.match_case)
            ):
                todo.append(child)


def _unit(scope: Scope, node: Def | ast.ClassDef, by_call: ast.Call | None) -> Unit | None:
    is_class = isinstance(node, ast.ClassDef)
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    decorator = next((each for each in calls if _registers(scope, each, is_class)), by_call)
    if decorator is None:
        return None
    options, complete = _options(scope, decorator)
    shared, hidden = _given_by_app(scope, decorator)
    decorators = _decorators(scope, node)
    methods, inherits = _methods(scope, node, decorator)
    merged = {name: value for name, value in shared.items() if name not in options} | options
    chain = images.resolve(scope, merged.get("image"))
    hidden = frozenset(name for name in hidden if name == "volumes" or name not in options)
    return Unit(node, decorator, merged, not complete, decorators, methods, scope, chain, inherits, hidden, shared)


def _methods(scope: Scope, node: Def | ast.ClassDef, decorator: ast.Call) -> tuple[list[Method], bool]:
    """Its methods, those of base classes in this module after its own; and whether some may come from elsewhere."""
    if not isinstance(node, ast.ClassDef):
        return [Method(node, _decorators(scope, node) | {"function": decorator})], False
    found: dict[str, Method] = {}
    inherits, todo = False, [node]
    seen: set[int] = set()
    while todo:
        current = todo.pop(0)
        seen.add(id(current))
        for item in current.body:
            if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.setdefault(item.name, Method(item, _decorators(scope, item)))
        for base in current.bases:
            origin = scope.defined(base)
            if isinstance(origin, ast.ClassDef):
                todo += [origin] if id(origin) not in seen else []
            elif not (isinstance(base, ast.Name) and base.id in {"object", "ABC", "Protocol"}):
                inherits = True
    return list(found.values()), inherits


def _registers(scope: Scope, decorator: ast.Call, is_class: bool) -> bool:
    """Whether the decorator is `cls` or `function` of what is, or for all that can be seen may be, an App."""
    if not isinstance(decorator.func, ast.Attribute):
        return False
    if decorator.func.attr not in ({"cls", "server"} if is_class else {"function"}):
        return False
    owner = decorator.func.value
    if not isinstance(owner, ast.Name):
        return True
    assigned = scope.assigned(owner)
    return assigned is None or (isinstance(assigned, ast.Call) and _is_app(scope, assigned))


def _is_app(scope: Scope, call: ast.Call) -> bool:
    name = scope.dotted(call.func)
    return name in _APPS or (not name.startswith("modal.") and name.rpartition(".")[2] in {"App", "Stub"})


def _registered_by_call(scope: Scope, tree: ast.Module) -> dict[int, ast.Call]:
    """`app.cls(...)(Model)` in place of a decorator: the inner call, by the definition it is given."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and len(node.args) == 1 and not node.keywords:
            definition = scope.defined(node.args[0])
            if definition is not None and _registers(scope, node.func, isinstance(definition, ast.ClassDef)):
                found[id(definition)] = node.func
    return found


def _given_by_app(scope: Scope, decorator: ast.Call) -> tuple[dict[str, ast.expr], frozenset[str]]:
    """What `modal.App(...)` gives to all its functions, and the names of what it may give where it cannot be seen."""
    owner = decorator.func.value if isinstance(decorator.func, ast.Attribute) else None
    call = scope.assigned(owner) if isinstance(owner, ast.Name) else None
    if not isinstance(call, ast.Call):
        return {}, frozenset(_SHARED)
    options, complete = _options(scope, call)
    return {name: value for name, value in options.items() if name in _SHARED}, frozenset(() if complete else _SHARED)


def _options(scope: Scope, call: ast.Call) -> tuple[dict[str, ast.expr], bool]:
    """The keyword arguments of a call by their present names, with those of a `**` whose dict the text shows; and whether these are all."""
    found: dict[str, ast.expr] = {}
    complete = True
    for keyword in call.keywords:
        if keyword.arg is not None:
            found[keyword.arg] = keyword.value
        else:
            inner, whole = _entries(scope, keyword.value)
            found |= inner
            complete &= whole
    for old, new in RENAMED.items():
        if old in found:
            found.setdefault(new, found[old])
    return found, complete


def _entries(scope: Scope, node: ast.expr | None, depth: int = 0) -> tuple[dict[str, ast.expr], bool]:
    """The entries of a dict by their keys, and whether these are all."""
    if isinstance(node, ast.Name) and depth < 20:
        return _entries(scope, scope.assigned(node), depth + 1)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        (left, first), (right, second) = (_entries(scope, side, depth + 1) for side in (node.left, node.right))
        return left | right, first and second
    if isinstance(node, ast.Call):
        copies = isinstance(node.func, ast.Attribute) and node.func.attr == "copy" and not node.args
        if copies and isinstance(node.func, ast.Attribute):
            return _entries(scope, node.func.value, depth + 1)
        if scope.dotted(node.func) != "dict" or len(node.args) > 1:
            return {}, False
        first_given, whole = _entries(scope, node.args[0], depth + 1) if node.args else ({}, True)
        named, rest = _options(scope, node)
        return first_given | named, whole and rest
    if not isinstance(node, ast.Dict):
        return {}, False
    found: dict[str, ast.expr] = {}
    complete = True
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            inner, whole = _entries(scope, value, depth + 1)
            found |= inner
            complete &= whole
        elif isinstance(name := scope.value(key), str):
            found[name] = value
        else:
            complete = False
    return found, complete


def _decorators(scope: Scope, node: Def | ast.ClassDef) -> dict[str, ast.Call | None]:
    found: dict[str, ast.Call | None] = {}
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        name = scope.dotted(call.func if call else decorator)
        if name.startswith("modal."):
            found[name.rpartition(".")[2]] = call
    return found
