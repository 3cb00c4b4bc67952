"""The app that a source defines: its functions and classes with their decorators, as the rules look at them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stoker.advice import image as images
from stoker.advice.image import Image
from stoker.advice.scope import UNKNOWN, Scope, own_nodes, statements
from stoker.advice.source import Source

Def = ast.FunctionDef | ast.AsyncFunctionDef
_HOOKS = {"enter", "exit"}
_WEB = {"fastapi_endpoint", "web_endpoint", "asgi_app", "wsgi_app", "web_server"}


@dataclass
class Method:
    """A function that Modal calls: an `@app.function`, or a method of an `@app.cls`. `decorators` are by the name in `modal`."""

    node: Def
    decorators: dict[str, ast.Call | None]

    @property
    def is_enter(self) -> bool:
        return "enter" in self.decorators

    @property
    def is_called(self) -> bool:
        """Whether inputs reach it, as against hooks and helpers."""
        return bool(self.decorators.keys() & ({"method", "batched", "function"} | _WEB))

    @property
    def web(self) -> str:
        return next(iter(self.decorators.keys() & _WEB), "")

    @property
    def parameters(self) -> list[ast.arg]:
        arguments = self.node.args
        return [arg for arg in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs) if arg.arg != "self"]

    def nodes(self) -> Iterator[ast.AST]:
        """What it runs itself, without its decorators."""
        for statement in self.node.body:
            yield statement
            if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from own_nodes(statement)

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in self.nodes() if isinstance(node, ast.Call))


@dataclass
class Unit:
    """An `@app.function` or `@app.cls`: what Modal gives containers of its own.

    `options` are the decorator's arguments by name. `open` says that there are more which the text does not show (`**common`), so that
    none can be called missing.
    """

    node: Def | ast.ClassDef
    decorator: ast.Call
    options: dict[str, ast.expr]
    open: bool
    decorators: dict[str, ast.Call | None]
    methods: list[Method]
    scope: Scope
    image: Image | None = None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    @property
    def called(self) -> list[Method]:
        return [method for method in self.methods if method.is_called]

    @property
    def enters(self) -> list[Method]:
        return [method for method in self.methods if method.is_enter]

    def has(self, option: str) -> bool:
        """Whether the option is given, or may be where the text does not show it."""
        return self.open or option in self.options

    def value(self, option: str) -> Any:
        """The option's constant value; None when it is surely not given; UNKNOWN when that cannot be told."""
        if option in self.options:
            return self.scope.value(self.options[option])
        return UNKNOWN if self.open else None

    @property
    def uses_gpu(self) -> bool:
        """Whether it surely asks for one."""
        gpu = self.options.get("gpu")
        value = self.scope.value(gpu)
        if gpu is None or value is None:
            return False
        written = isinstance(gpu, ast.JoinedStr) or self.scope.dotted(getattr(gpu, "func", gpu)).startswith(
            "modal.gpu."
        )
        return value is not UNKNOWN or written

    @property
    def mounts(self) -> list[str] | None:
        """The paths of its volumes and buckets; None when they cannot be told."""
        found: list[str] = []
        for option in ("volumes", "network_file_systems"):
            value = self.value(option)
            if value is None:
                continue
            if not isinstance(value, dict):
                return None
            found += [str(path) for path in value]
        return found

    def environment(self) -> dict[str, Any]:
        """Variables that its image and its own options set."""
        found = self.image.environment(self.scope) if self.image else {}
        own = self.value("env")
        return found | own if isinstance(own, dict) else found


@dataclass
class App:
    """`calls` are all calls in the module, `helpers` its plain functions by name."""

    source: Source
    scope: Scope
    units: list[Unit] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    helpers: dict[str, Def] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Source) -> App:
        scope = Scope(source.tree)
        app = cls(source, scope)
        defaults = _app_defaults(scope, source.tree)
        for statement in statements(source.tree.body):
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                unit = _unit(scope, statement, defaults)
                if unit is not None:
                    app.units.append(unit)
                elif not isinstance(statement, ast.ClassDef):
                    app.helpers[statement.name] = statement
        app.images = list(images.all_images(scope, source.tree))
        return app


def _unit(scope: Scope, node: Def | ast.ClassDef, defaults: dict[str, ast.expr]) -> Unit | None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and _registers(scope, decorator, isinstance(node, ast.ClassDef)):
            options, hidden = _options(scope, decorator)
            options = {name: value for name, value in defaults.items() if name not in options} | options
            decorators = _decorators(scope, node)
            if isinstance(node, ast.ClassDef):
                bodies = [item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))]
                methods = [Method(item, _decorators(scope, item)) for item in bodies]
            else:
                methods = [Method(node, decorators | {"function": decorator})]
            chain = images.resolve(scope, options.get("image"))
            return Unit(node, decorator, options, hidden, decorators, methods, scope, chain)
    return None


def _registers(scope: Scope, decorator: ast.Call, is_class: bool) -> bool:
    """Whether the decorator is `cls` or `function` of what is, or for all that can be seen may be, an App."""
    if not isinstance(decorator.func, ast.Attribute):
        return False
    if decorator.func.attr not in ({"cls", "server"} if is_class else {"function"}):
        return False
    owner = decorator.func.value
    if not isinstance(owner, ast.Name):
        return True
    assigned = scope.assigned(owner.id, decorator.lineno)
    if assigned is None:
        return True
    return isinstance(assigned, ast.Call) and scope.dotted(assigned.func).rpartition(".")[2] in {"App", "Stub"}


def _options(scope: Scope, call: ast.Call) -> tuple[dict[str, ast.expr], bool]:
    found: dict[str, ast.expr] = {}
    hidden = False
    for keyword in call.keywords:
        if keyword.arg is not None:
            found[keyword.arg] = keyword.value
            continue
        value: ast.expr | None = keyword.value
        if isinstance(value, ast.Name):
            value = scope.assigned(value.id, value.lineno)
        if isinstance(value, ast.Dict) and all(isinstance(key, ast.Constant) for key in value.keys):
            found |= {
                str(key.value): item
                for key, item in zip(value.keys, value.values, strict=True)
                if isinstance(key, ast.Constant)
            }
        elif isinstance(value, ast.Call) and scope.dotted(value.func) == "dict" and all(k.arg for k in value.keywords):
            found |= {str(item.arg): item.value for item in value.keywords}
        else:
            hidden = True
    return found, hidden


def _decorators(scope: Scope, node: Def | ast.ClassDef) -> dict[str, ast.Call | None]:
    found: dict[str, ast.Call | None] = {}
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        name = scope.dotted(call.func if call else decorator)
        if name.startswith("modal."):
            found[name.rpartition(".")[2]] = call
    return found


def _app_defaults(scope: Scope, tree: ast.Module) -> dict[str, ast.expr]:
    """What `modal.App(...)` gives to all its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and scope.dotted(node.func) in {"modal.App", "modal.Stub"}:
            shared = {"image", "secrets", "volumes"}
            return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg in shared}
    return {}
