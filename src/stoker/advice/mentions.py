"""Every place where a module names something of the client."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice.scope import Scope

Place = ast.expr | ast.alias


def mentions(scope: Scope, tree: ast.Module) -> Iterator[tuple[str, Place]]:
    """Dotted names that begin with "modal.", each as long as it is written, with imports before the rest."""
    inner: set[int] = set()
    found: list[tuple[str, ast.expr]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").partition(".")[0] == "modal":
            yield from ((f"{node.module}.{alias.name}", alias) for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Import):
            yield from ((alias.name, alias) for alias in node.names if alias.name.startswith("modal."))
        elif isinstance(node, (ast.Attribute, ast.Name)) and id(node) not in inner and isinstance(node.ctx, ast.Load):
            inner.update(_chain(node))
            if (name := scope.dotted(node)).startswith("modal."):
                found.append((name, node))
    yield from sorted(found, key=lambda pair: (pair[1].lineno, pair[1].col_offset))


def _chain(node: ast.expr) -> Iterator[int]:
    """The parts of `a.b.c`, by their identity."""
    while isinstance(node, ast.Attribute):
        yield id(node)
        node = node.value
    yield id(node)


def part_named(node: ast.expr, name: str, scope: Scope) -> ast.expr | None:
    """The part of an attribute chain that stands for the beginning `name` of its dotted name; None where a variable does."""
    current: ast.expr = node
    while scope.dotted(current) != name:
        if not isinstance(current, ast.Attribute):
            return None
        current = current.value
    return current
