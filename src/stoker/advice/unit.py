"""What Modal gives containers of its own: an `@app.function` or an `@app.cls`, with its options and methods."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stoker.advice import edits
from stoker.advice.edits import Edit
from stoker.advice.image import Image
from stoker.advice.scope import UNKNOWN, Scope, own_nodes
from stoker.advice.source import Source

Def = ast.FunctionDef | ast.AsyncFunctionDef
WEB = {"fastapi_endpoint", "web_endpoint", "asgi_app", "wsgi_app", "web_server"}
RENAMED = {
    "keep_warm": "min_containers",
    "concurrency_limit": "max_containers",
    "container_idle_timeout": "scaledown_window",
}
"""Options that the client has under another name now. Rules read them by the new one."""


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
        return bool(self.decorators.keys() & ({"method", "batched", "function"} | WEB))

    @property
    def web(self) -> str:
        return next(iter(self.decorators.keys() & WEB), "")

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

    def runs_before_snapshot(self, scope: Scope) -> bool:
        """Whether it is `@modal.enter(snap=True)`."""
        call = self.decorators.get("enter")
        return call is not None and any(
            keyword.arg == "snap" and scope.value(keyword.value) is True for keyword in call.keywords
        )


@dataclass
class Unit:
    """`options` are the decorator's arguments by name, with what the app gives to all. `open` says that there are more which the text does
    not show (`**common` from elsewhere), so that none can be called missing. `inherits` says that methods may come from another module."""

    node: Def | ast.ClassDef
    decorator: ast.Call
    options: dict[str, ast.expr]
    open: bool
    decorators: dict[str, ast.Call | None]
    methods: list[Method]
    scope: Scope
    image: Image | None = None
    inherits: bool = False
    hidden: frozenset[str] = frozenset()  # options that an app of another module may give
    shared: Mapping[str, ast.expr] = field(default_factory=dict)  # those that the app gives besides the unit's own

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
        return self.open or option in self.hidden or option in self.options

    def value(self, option: str) -> Any:
        """The option's constant value; None when it is surely not given; UNKNOWN when that cannot be told."""
        if option in self.options:
            return self.scope.value(self.options[option])
        return UNKNOWN if self.open or option in self.hidden else None

    @property
    def uses_gpu(self) -> bool:
        """Whether it surely asks for one."""
        gpu = self.options.get("gpu")
        value = self.scope.value(gpu)
        if gpu is None or value is None or value is False or value == "":
            return False
        written = isinstance(gpu, ast.JoinedStr) or self.scope.dotted(getattr(gpu, "func", gpu)).startswith(
            "modal.gpu."
        )
        return value is not UNKNOWN or written

    @property
    def mounts(self) -> list[str] | None:
        """The paths of its volumes and buckets, the app's among them; None when they cannot be told."""
        if self.open or self.hidden & {"volumes"}:
            return None
        found: list[str] = []
        given = [self.options.get("volumes"), self.options.get("network_file_systems"), self.shared.get("volumes")]
        for node in given:
            if node is None:
                continue
            value = self.scope.value(node)
            if value is None:
                continue
            if not isinstance(value, dict):
                return None
            found += [str(path) for path in value]
        return found

    @property
    def image_is_known(self) -> bool:
        """Whether everything in its image can be seen. Without an option it is Modal's plain one."""
        if self.image is not None:
            return self.image.complete
        return not self.has("image")

    @property
    def restores(self) -> bool:
        """Whether its containers surely start from a memory snapshot that was taken after an `@modal.enter(snap=True)`."""
        return self.value("enable_memory_snapshot") is True and any(
            method.runs_before_snapshot(self.scope) for method in self.enters
        )

    def environment(self) -> dict[str, Any]:
        """Variables that its image and its own options set."""
        found = self.image.environment(self.scope) if self.image else {}
        own = self.value("env")
        return found | own if isinstance(own, dict) else found

    def set_options(self, source: Source, options: Mapping[str, str]) -> list[Edit]:
        """Gives it these options: where their present value is written, else in its decorator."""
        found: list[Edit] = []
        missing: dict[str, str] = {}
        own = {keyword.arg: keyword for keyword in self.decorator.keywords}
        old_names = {new: old for old, new in RENAMED.items()}
        for name, text in options.items():
            old = own.get(old_names.get(name, ""))
            if old is not None:
                found.append(Edit(source.start(old), source.end(old), f"{name}={text}"))
            elif name in self.options and name not in own and name not in self.shared:
                value = self.options[name]
                found.append(Edit(source.start(value), source.end(value), text))
            else:
                missing[name] = text
        return [*found, *(edits.set_options(source, self.decorator, missing) if missing else [])]
