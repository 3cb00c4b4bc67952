"""What names and expressions of a module mean, as far as its text alone tells."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from stoker.advice.binding import Binding, Bindings


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
    ast.BitOr: operator.or_,
}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_PATHS = {"pathlib.Path", "pathlib.PurePosixPath", "pathlib.PurePath", "pathlib.PosixPath", "str"}
_DEEPEST = 20  # names that stand for names
_LONGEST = 10_000  # items or characters of what is put together


class Scope:
    """The names of a module: what each was imported as or set to, at the place where it is read."""

    def __init__(self, tree: ast.Module) -> None:
        self._bindings = Bindings(tree)
        self._values: dict[int, Any] = {}  # by the identity of the node: what is named twice is worked out once

    def dotted(self, node: ast.AST, depth: int = 0) -> str:
        """`m.Volume.from_name` as "modal.Volume.from_name" after `import modal as m`; "" for what is no dotted name, or a variable."""
        if isinstance(node, ast.Attribute):
            value = self.dotted(node.value, depth)
            return f"{value}.{node.attr}" if value else ""
        if not isinstance(node, ast.Name) or depth > _DEEPEST:
            return ""
        binding = self._bindings.of(node)
        if binding is None:
            return self._bindings.imported(node.id) or node.id
        if binding.imports:
            return binding.imports
        if binding.defines is not None or node.id in {"self", "cls"}:
            return node.id
        alias = binding.value
        return self.dotted(alias, depth + 1) if isinstance(alias, (ast.Name, ast.Attribute)) else ""

    def assigned(self, node: ast.Name) -> ast.expr | None:
        """The expression that the name was set to last before it is read here; None when that cannot be told."""
        binding = self._bindings.of(node)
        return binding.value if binding is not None else None

    def defined(self, node: ast.expr) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | None:
        """The function or class of this module that a name stands for."""
        binding = self._bindings.of(node) if isinstance(node, ast.Name) else None
        return binding.defines if binding is not None else None

    def is_assigned(self, name: str) -> bool:
        """Whether the module sets a global variable of that name."""
        return any(not binding.imports and binding.defines is None for binding in self._bindings.module.get(name, ()))

    def settings(self, name: str) -> list[Binding]:
        """All that the global name is set to, in order."""
        return self._bindings.module.get(name, [])

    def value(self, node: ast.AST | None, depth: int = 0) -> Any:
        """The constant an expression stands for: numbers, strings, lists, dicts, paths (as strings); else UNKNOWN."""
        if node is None or depth > _DEEPEST:
            return UNKNOWN
        if isinstance(node, ast.Constant):
            return node.value
        if id(node) not in self._values:
            self._values[id(node)] = self._value(node, depth)
        return self._values[id(node)]

    def _value(self, node: ast.AST, depth: int) -> Any:
        if isinstance(node, ast.Name):
            assigned = self.assigned(node)
            return UNKNOWN if assigned is None else self.value(assigned, depth + 1)
        if isinstance(node, (ast.List, ast.Tuple)):
            return self._sequence(node.elts, depth)
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
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        return UNKNOWN

    def _sequence(self, items: list[ast.expr], depth: int) -> Any:
        found: list[Any] = []
        for item in items:
            value = self.value(item.value if isinstance(item, ast.Starred) else item, depth + 1)
            if not isinstance(item, ast.Starred):
                found.append(value)
            elif isinstance(value, list):
                found += value
            else:
                return UNKNOWN
        return found

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
        if apply is operator.mul and not all(
            isinstance(side, (int, float)) and side <= _LONGEST**2 for side in (left, right)
        ):
            return UNKNOWN
        if all(isinstance(side, (str, list)) for side in (left, right)) and len(left) + len(right) > _LONGEST:
            return UNKNOWN
        try:
            return apply(left, right)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            return UNKNOWN

    def _call(self, node: ast.Call, depth: int) -> Any:
        name = self.dotted(node.func)
        if name == "dict" and not node.args:
            pairs = [(item.arg, self.value(item.value, depth + 1)) for item in node.keywords]
            return dict(pairs) if all(key is not None for key, _ in pairs) else UNKNOWN
        texts = [self.value(argument, depth + 1) for argument in node.args]
        if not texts or not all(isinstance(text, str) for text in texts):
            return self.value(node.args[0], depth + 1) if name in {"list", "tuple"} and len(texts) == 1 else UNKNOWN
        if name in _PATHS:
            return str(PurePosixPath(*texts)) if name != "str" else texts[0]
        return "/".join([text.rstrip("/") for text in texts[:-1]] + texts[-1:]) if name == "os.path.join" else UNKNOWN


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
