"""Image definitions: the chain of calls from a base to the last step."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stoker.advice.scope import Scope

_MAKERS = {
    "debian_slim", "from_registry", "from_aws_ecr", "from_gcp_artifact_registry", "micromamba", "from_dockerfile",
    "from_id", "from_name", "from_scratch",
}  # fmt: skip
_OPAQUE = {
    "from_dockerfile",
    "from_id",
    "from_name",
    "from_aws_ecr",
    "from_gcp_artifact_registry",
    "dockerfile_commands",
}


@dataclass(frozen=True)
class Image:
    """`steps` holds the calls in the order they take effect, the base first. `complete` says that all of them can be seen."""

    expression: ast.expr
    steps: tuple[ast.Call, ...]
    complete: bool

    @property
    def base(self) -> ast.Call | None:
        return self.steps[0] if self.steps and method(self.steps[0]) in _MAKERS else None

    def environment(self, scope: Scope) -> dict[str, Any]:
        """What `.env({...})` steps set; values that cannot be told are UNKNOWN."""
        found: dict[str, Any] = {}
        for step in self.steps:
            if method(step) == "env" and step.args:
                value = scope.value(step.args[0])
                if isinstance(value, dict):
                    found |= value
        return found

    def sets_unknown_environment(self, scope: Scope) -> bool:
        """Whether some step may set variables that cannot be seen."""
        return any(
            method(step) == "env" and not isinstance(scope.value(step.args[0] if step.args else None), dict)
            for step in self.steps
        )


def method(call: ast.Call) -> str:
    """The last name of what is called: `pip_install` of `image.pip_install(...)`."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def resolve(scope: Scope, node: ast.expr | None) -> Image | None:
    """The image an expression builds, through names of the module; None when its text does not show one."""
    steps: list[ast.Call] = []
    expression = node
    for _ in range(200):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            steps.append(node)
            if node.func.attr in _MAKERS and scope.dotted(node.func.value).endswith("Image"):
                break
            node = node.func.value
        elif isinstance(node, ast.Name):
            assigned = scope.assigned(node.id, node.lineno)
            if assigned is None or assigned is node:
                break
            if not steps:
                expression = assigned
            node = assigned
        else:
            break
    if not steps or expression is None:
        return None
    steps.reverse()
    known = method(steps[0]) in _MAKERS and not any(method(step) in _OPAQUE for step in steps)
    return Image(expression, tuple(steps), known)


def all_images(scope: Scope, tree: ast.AST) -> Iterator[Image]:
    """Every chain that is written in the module and begins with a base, each once."""
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in inner:
            image = resolve(scope, node)
            if image is not None:
                inner.update(step.func.value for step in image.steps if isinstance(step.func, ast.Attribute))
                inner.update(image.steps)
                if image.base is not None or any(method(step).endswith("pip_install") for step in image.steps):
                    yield image


def packages(scope: Scope, call: ast.Call) -> Iterator[tuple[ast.expr, str]]:
    """The requirements that a `pip_install` or `uv_pip_install` step names, each with the node that says so."""
    for argument in call.args:
        nodes = argument.elts if isinstance(argument, (ast.List, ast.Tuple)) else [argument]
        for node in nodes:
            value = scope.value(node)
            if isinstance(value, str):
                yield node, value
            elif isinstance(node, ast.Name) and isinstance(value, list):
                assigned = scope.assigned(node.id, node.lineno)
                if isinstance(assigned, (ast.List, ast.Tuple)):
                    yield from (
                        (item, text) for item, text in zip(assigned.elts, value, strict=True) if isinstance(text, str)
                    )
