"""Which assignment, import or definition a name refers to where it is read: Python's scopes, and the branches that a value may not come through."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Position = tuple[int, int]  # line and column
_CHANGES = {
    "append", "extend", "insert", "update", "setdefault", "pop", "popitem", "clear", "remove", "discard", "add",
}  # fmt: skip
"""Methods by which a list or a dict is no longer what it was written as."""


@dataclass(frozen=True)
class Binding:
    """One thing a name is set to, from `end` on. All of `value`, `imports` and `defines` empty: something that the text does not tell.

    arms: the branches and loops it stands in, from the outside in.
    """

    end: Position
    arms: tuple[int, ...]
    value: ast.expr | None = None
    imports: str = ""
    defines: Definition | None = None


@dataclass
class _Block:
    """A module, class, function or comprehension: where names are bound."""

    outer: _Block | None = None
    is_class: bool = False
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    globals: set[str] = field(default_factory=set)


class Bindings:
    """All of a module, looked up by the nodes that read names."""

    def __init__(self, tree: ast.Module) -> None:
        self._places: dict[int, tuple[_Block, tuple[int, ...]]] = {}
        self._imports: dict[str, str] = {}
        self._module = _Block()
        self._statements(tree.body, self._module, ())

    @property
    def module(self) -> dict[str, list[Binding]]:
        """The global names with all their bindings in order."""
        return self._module.bindings

    def imported(self, name: str) -> str:
        """What some import of the module gives that name, wherever it stands; "" without one."""
        return self._imports.get(name, "")

    def of(self, node: ast.Name) -> Binding | None:
        """The binding that holds where the name is read. None for a name that is bound nowhere in sight; one that tells nothing where
        several may hold."""
        place = self._places.get(id(node))
        if place is None:
            return None
        block, arms = place
        for current in self._blocks(block, node.id):
            found = current.bindings.get(node.id)
            if found:
                return _holding(found, (node.lineno, node.col_offset), arms, here=current is block)
        return None

    def _blocks(self, block: _Block, name: str) -> Iterable[_Block]:
        if name in block.globals:
            return [self._module]
        found, current = [block], block.outer
        while current is not None:
            if not current.is_class:  # functions do not see the names of the class around them
                found.append(current)
            current = current.outer
        return found

    # Reading the tree

    def _statements(self, body: list[ast.stmt], block: _Block, arms: tuple[int, ...]) -> None:
        for statement in body:
            self._statement(statement, block, arms)

    def _statement(self, node: ast.stmt, block: _Block, arms: tuple[int, ...]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._function(node, block, arms)
        elif isinstance(node, ast.ClassDef):
            self._expressions([*node.decorator_list, *node.bases, *node.keywords], block, arms)
            self._bind(node.name, node, block, arms, defines=node)
            self._statements(node.body, _Block(block, is_class=True), ())
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node, block, arms)
        elif isinstance(node, ast.Global):
            block.globals.update(node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            self._assignment(node, block, arms)
        elif isinstance(node, (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)):
            self._branches(node, block, arms)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                self._expressions([item.context_expr], block, arms)
                if item.optional_vars is not None:
                    self._unpack(item.optional_vars, node, block, arms)
            self._statements(node.body, block, arms)
        else:
            self._expressions(ast.iter_child_nodes(node), block, arms)
            if isinstance(node, ast.Expr):
                self._change(node.value, node, block, arms)

    def _branches(
        self,
        node: ast.If | ast.For | ast.AsyncFor | ast.While | ast.Try | ast.Match,
        block: _Block,
        arms: tuple[int, ...],
    ) -> None:
        bodies: list[list[ast.stmt]] = [getattr(node, name, []) for name in ("body", "orelse")]
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.expr, ast.withitem)):
                self._expressions([child], block, arms)
            elif isinstance(child, ast.ExceptHandler):
                bodies.append(child.body)
                if child.name:
                    self._bind(child.name, node, block, (*arms, id(child.body)), end=(child.lineno, 0))
                self._expressions([child.type] if child.type else [], block, arms)
            elif isinstance(child, ast.match_case):
                bodies.append(child.body)
                for name in [
                    each.name for each in ast.walk(child.pattern) if isinstance(each, (ast.MatchAs, ast.MatchStar))
                ]:
                    if name:
                        self._bind(name, node, block, (*arms, id(child.body)), end=(node.lineno, node.col_offset))
        if isinstance(node, (ast.For, ast.AsyncFor)):
            self._unpack(node.target, node.target, block, arms)
        for body in bodies:
            self._statements(body, block, (*arms, id(body)))
        self._statements(getattr(node, "finalbody", []), block, arms)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, block: _Block, arms: tuple[int, ...]) -> None:
        arguments = node.args
        defaults = [*arguments.defaults, *(value for value in arguments.kw_defaults if value is not None)]
        self._expressions([*node.decorator_list, *defaults], block, arms)
        self._bind(node.name, node, block, arms, defines=node)
        inner = _Block(block)
        self._parameters(arguments, inner)
        self._expressions(
            [each.annotation for each in _parameters(arguments) if each.annotation is not None], block, arms
        )
        self._statements(node.body, inner, ())

    def _parameters(self, arguments: ast.arguments, inner: _Block) -> None:
        for each in _parameters(arguments):
            inner.bindings[each.arg] = [Binding((each.lineno, each.col_offset), ())]

    def _import(self, node: ast.Import | ast.ImportFrom, block: _Block, arms: tuple[int, ...]) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                name = alias.asname or alias.name.split(".")[0]
                imports = alias.name if alias.asname else name
            else:
                name = alias.asname or alias.name
                imports = f"{'.' * node.level}{node.module or ''}.{alias.name}"
            self._imports[name] = imports
            self._bind(name, node, block, arms, imports=imports)

    def _assignment(
        self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, block: _Block, arms: tuple[int, ...]
    ) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        self._expressions([*targets, *([node.value] if node.value is not None else [])], block, arms)
        if isinstance(node, ast.AnnAssign) and node.value is None:
            return  # a declaration
        value = None if isinstance(node, ast.AugAssign) else node.value
        for target in targets:
            if isinstance(target, ast.Name):
                self._bind(target.id, node, block, arms, value=value)
            else:
                self._unpack(target, node, block, arms, value)

    def _unpack(
        self, target: ast.expr, node: ast.AST, block: _Block, arms: tuple[int, ...], value: ast.expr | None = None
    ) -> None:
        """Binds what stands in a target: names, parts of a tuple, and what is changed by setting a part of it."""
        if isinstance(target, ast.Name):
            self._bind(target.id, node, block, arms, value=value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts: list[ast.expr | None] = [None] * len(target.elts)
            fits = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
            if fits and isinstance(value, (ast.Tuple, ast.List)):
                parts = [None if isinstance(part, ast.Starred) else part for part in value.elts]
            for part, given in zip(target.elts, parts, strict=True):
                self._unpack(part, node, block, arms, given)
        elif isinstance(target, ast.Starred):
            self._unpack(target.value, node, block, arms)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            self._bind(target.value.id, node, block, arms, only_known=True)

    def _change(self, node: ast.expr, statement: ast.stmt, block: _Block, arms: tuple[int, ...]) -> None:
        """`options.update(...)` and the like."""
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr in _CHANGES and isinstance(called.value, ast.Name):
            self._bind(called.value.id, statement, block, arms, only_known=True)

    def _bind(
        self,
        name: str,
        node: ast.AST,
        block: _Block,
        arms: tuple[int, ...],
        *,
        value: ast.expr | None = None,
        imports: str = "",
        defines: Definition | None = None,
        end: Position | None = None,
        only_known: bool = False,
    ) -> None:
        if end is None:
            end = (getattr(node, "end_lineno", None) or 0, getattr(node, "end_col_offset", None) or 0)
        if defines is not None:
            end = (node.lineno, node.col_offset)  # type: ignore[attr-defined]  # a function may call itself
        if name in block.globals and block is not self._module:
            block, value, arms = self._module, None, (*arms, id(node))  # set at some time while the program runs
        if not only_known or name in block.bindings:
            block.bindings.setdefault(name, []).append(Binding(end, arms, value, imports, defines))

    def _expressions(self, nodes: Iterable[ast.AST], block: _Block, arms: tuple[int, ...]) -> None:
        for node in nodes:
            self._places[id(node)] = (block, arms)
            if isinstance(node, ast.Lambda):
                inner = _Block(block)
                self._parameters(node.args, inner)
                self._expressions([node.body], inner, ())
            elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
                self._comprehension(node, block, arms)
            else:
                if isinstance(node, ast.NamedExpr):
                    self._bind(node.target.id, node, block, arms, value=node.value)
                self._expressions(ast.iter_child_nodes(node), block, arms)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, block: _Block, arms: tuple[int, ...]
    ) -> None:
        inner = _Block(block)
        for name in (each for loop in node.generators for each in ast.walk(loop.target) if isinstance(each, ast.Name)):
            inner.bindings[name.id] = [Binding((0, 0), ())]
        self._expressions([node.generators[0].iter], block, arms)
        for loop in node.generators:
            self._expressions([loop.target, *loop.ifs], inner, ())
        self._expressions([loop.iter for loop in node.generators[1:]], inner, ())
        elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._expressions(elements, inner, ())


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*found, *(each for each in (arguments.vararg, arguments.kwarg) if each is not None)]


def _holding(found: list[Binding], position: Position, arms: tuple[int, ...], *, here: bool) -> Binding:
    """The last binding before a place in the same block, or the last of an outer block, if no branch can lead around it."""
    before = [binding for binding in found if binding.end <= position] if here else found
    if not before:
        return Binding(position, arms)
    last = before[-1]
    certain = last.arms == arms[: len(last.arms)] if here else last.arms == ()
    if certain or all(_alike(last, other) for other in before):
        return last
    # `try: import x`, `except ImportError: x = None`: what is used later is the module.
    imports = next((binding.imports for binding in before if binding.imports), "")
    return Binding(last.end, last.arms, imports=imports)


def _alike(one: Binding, other: Binding) -> bool:
    """Whether two bindings say the same, as of a name that is imported in each branch or set to an equal constant."""
    if one.imports or other.imports:
        return one.imports == other.imports
    same_value = one.value is not None and other.value is not None and ast.dump(one.value) == ast.dump(other.value)
    return one.defines is other.defines and same_value
