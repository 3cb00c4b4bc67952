"""What names and expressions of a module mean, as far as its text alone tells."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Final


class Unknown:
    """The value of what cannot be told without running the code. No rule builds a finding on it."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


class Scope:
    """The imports and the global assignments of a module."""

    def __init__(self, tree: ast.Module) -> None:
        self._imported: dict[str, str] = {}
        self._assigned: dict[str, list[tuple[int, ast.expr | None]]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._imported[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    module = "." * node.level + (node.module or "")
                    self._imported[alias.asname or alias.name] = f"{module}.{alias.name}"
        for statement in statements(tree.body):
            self._record(statement)

    def dotted(self, node: ast.AST) -> str:
        """`m.Volume.from_name` as "modal.Volume.from_name" after `import modal as m`; "" for what is no dotted name."""
        if isinstance(node, ast.Name):
            return self._imported.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            value = self.dotted(node.value)
            return f"{value}.{node.attr}" if value else ""
        return ""

    def assigned(self, name: str, before: int) -> ast.expr | None:
        """What the global name was last set to above a line, or anywhere when it is set only below; None when not told."""
        known = self._assigned.get(name, [])
        above = [value for line, value in known if line < before]
        if above:
            return above[-1]
        return known[0][1] if known else None

    def is_assigned(self, name: str) -> bool:
        return name in self._assigned

    def value(self, node: ast.AST | None, depth: int = 0) -> Any:
        """The constant an expression stands for: numbers, strings, lists, dicts, paths (as strings); else UNKNOWN."""
        if node is None or depth > 20:
            return UNKNOWN
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            assigned = self.assigned(node.id, node.lineno)
            return UNKNOWN if assigned is None or assigned is node else self.value(assigned, depth + 1)
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self.value(item, depth + 1) for item in node.elts]
        if isinstance(node, ast.Dict):
            return self._mapping(node, depth)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self.value(node.operand, depth + 1)
            return -value if isinstance(value, (int, float)) else UNKNOWN
        if isinstance(node, ast.BinOp):
            return self._binary(node, depth)
        if isinstance(node, ast.JoinedStr):
            parts = [
                self.value(part.value if isinstance(part, ast.FormattedValue) else part, depth + 1)
                for part in node.values
            ]
            return UNKNOWN if any(part is UNKNOWN for part in parts) else "".join(map(str, parts))
        if isinstance(node, ast.Call) and self.dotted(node.func) in _PATHS and node.args:
            value = self.value(node.args[0], depth + 1)
            return value if isinstance(value, str) else UNKNOWN
        return UNKNOWN

    def _mapping(self, node: ast.Dict, depth: int) -> Any:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                inner = self.value(value, depth + 1)
                if not isinstance(inner, dict):
                    return UNKNOWN
                found |= inner
                continue
            name = self.value(key, depth + 1)
            if not isinstance(name, (str, int)):
                return UNKNOWN
            found[name] = self.value(value, depth + 1)
        return found

    def _binary(self, node: ast.BinOp, depth: int) -> Any:
        left, right = self.value(node.left, depth + 1), self.value(node.right, depth + 1)
        if isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Div):
            return str(PurePosixPath(left) / right)
        apply = _OPERATORS.get(type(node.op))
        if apply is None or left is UNKNOWN or right is UNKNOWN:
            return UNKNOWN
        try:
            return apply(left, right)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            return UNKNOWN

    def _record(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    self._assigned.setdefault(target.id, []).append((statement.lineno, statement.value))
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            self._assigned.setdefault(statement.target.id, []).append((statement.lineno, statement.value))
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            self._assigned.setdefault(statement.target.id, []).append((statement.lineno, None))


_PATHS = {"pathlib.Path", "pathlib.PurePosixPath", "pathlib.PurePath", "pathlib.PosixPath", "str"}


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements and those inside `if`, `with`, `try` and loops, but not the bodies of functions and classes."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from statements(getattr(statement, name, []))
        for handler in getattr(statement, "handlers", []):
            yield from statements(handler.body)


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All that is run by a function or class itself: inner functions and lambdas are left out."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _SCOPES):
            yield child
            yield from own_nodes(child)


def parent(tree: ast.AST, node: ast.AST) -> ast.AST | None:
    """The node of which this one is a direct part."""
    return next((each for each in ast.walk(tree) if any(part is node for part in ast.iter_child_nodes(each))), None)
