"""Image definitions: the chain of calls from a base to the last step."""

from __future__ import annotations

import ast
import re
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
    "pipe",
}
_PLAIN_BASES = re.compile(
    r"^(docker\.io/)?(library/)?(python|ubuntu|debian|alpine|node|rust|golang|nvidia/cuda|nvcr\.io/nvidia/\S+|pytorch/pytorch|tensorflow/tensorflow"
    r"|condaforge/\S+|continuumio/\S+|mambaorg/micromamba|vllm/vllm-openai|lmsysorg/sglang|ollama/ollama|huggingface/\S+"
    r"|ghcr\.io/(huggingface|astral-sh|ggml-org|ggerganov|coqui-ai)/\S+)(:|@|$)"
)
"""Base images that hold programs, and no weights."""


@dataclass(frozen=True)
class Image:
    """`steps` holds the calls in the order they take effect, the base first where it can be seen. `complete` says that all of them can."""

    steps: tuple[ast.Call, ...]
    base: ast.Call | None
    complete: bool

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
    """The image an expression builds, through names and functions of the module; None when its text does not show one."""
    steps: list[ast.Call] = []
    base: ast.Call | None = None
    followed: set[int] = set()
    while node is not None and base is None and id(node) not in followed:
        followed.add(id(node))  # an image set in terms of itself, where what it was before cannot be told
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and scope.defined(node.func) is None:
            steps.append(node)
            if node.func.attr in _MAKERS and scope.dotted(node.func.value).rpartition(".")[2] == "Image":
                base = node
            node = node.func.value
        else:
            node = _origin(scope, node)
    if not steps:
        return None
    steps.reverse()
    complete = base is not None and _is_plain(scope, base) and not any(method(step) in _OPAQUE for step in steps)
    return Image(tuple(steps), base, complete)


def _origin(scope: Scope, node: ast.expr) -> ast.expr | None:
    """What a name was set to, or what a function of the module returns."""
    if isinstance(node, ast.Name):
        return scope.assigned(node)
    maker = scope.defined(node.func) if isinstance(node, ast.Call) else None
    if not isinstance(maker, ast.FunctionDef):
        return None
    returns = [each for each in ast.walk(maker) if isinstance(each, ast.Return)]
    return returns[0].value if len(returns) == 1 else None


def _is_plain(scope: Scope, base: ast.Call) -> bool:
    """Whether nothing but programs is known to be in the base."""
    if method(base) != "from_registry":
        return True
    name = scope.value(base.args[0] if base.args else None)
    return isinstance(name, str) and bool(_PLAIN_BASES.match(name))


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
    """The requirements that a `pip_install` or `uv_pip_install` step names, each once with the node that says so."""
    seen: set[int] = set()
    for argument in call.args:
        yield from _packages(scope, argument, seen)


def _packages(scope: Scope, node: ast.expr | None, seen: set[int]) -> Iterator[tuple[ast.expr, str]]:
    if isinstance(node, ast.Starred):
        node = node.value
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, (ast.List, ast.Tuple)):
        for item in node.elts:
            yield from _packages(scope, item, seen)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and not isinstance(scope.value(node), str):
        yield from _packages(scope, node.left, seen)
        yield from _packages(scope, node.right, seen)
    elif isinstance(value := scope.value(node), str):
        yield node, value
    elif isinstance(node, ast.Name):
        yield from _packages(scope, scope.assigned(node), seen)
