"""Other ways to write the same app. None of them changes what the app does."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping


def with_an_alias(tree: ast.Module) -> str:
    """`import modal as m`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and node.name == "modal":
            node.asname = "m"
        elif isinstance(node, ast.Name) and node.id == "modal":
            node.id = "m"
    return ast.unparse(tree)


def with_names(tree: ast.Module) -> str:
    """`from modal import App, Image, ...`."""
    found: set[str] = set()
    text = ast.unparse(_Names(found).visit(tree))
    return (f"from modal import {', '.join(sorted(found))}\n" if found else "") + text


def with_options_apart(tree: ast.Module) -> str:
    """`@app.cls(**OPTIONS)`, with a dict of them above the definition."""
    for body in _bodies(tree):
        for definition in [
            each for each in body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        ]:
            for decorator in definition.decorator_list:
                if isinstance(decorator, ast.Call) and _last(decorator) in {"function", "cls"} and decorator.keywords:
                    name = f"OPTIONS_{definition.name}"
                    made = ast.Call(ast.Name("dict", ast.Load()), [], decorator.keywords)
                    decorator.keywords = [ast.keyword(None, ast.Name(name, ast.Load()))]
                    body.insert(body.index(definition), ast.Assign([ast.Name(name, ast.Store())], made))
    return ast.unparse(ast.fix_missing_locations(tree))


def step_by_step(tree: ast.Module) -> str:
    """An image that is assigned anew with each step, and texts of decorators in constants."""
    for body in _bodies(tree):
        for statement in [each for each in body if isinstance(each, ast.Assign)]:
            steps = _steps(statement)
            if steps:
                at = body.index(statement)
                body[at : at + 1] = steps
    texts: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for decorator in node.decorator_list:
                _Constants(texts).visit(decorator)
    constants = "".join(f"{name} = {text!r}\n" for text, name in texts.items())
    return constants + ast.unparse(ast.fix_missing_locations(tree))


STYLES: Mapping[str, Callable[[ast.Module], str] | None] = {
    "as written": None,
    "alias": with_an_alias,
    "names": with_names,
    "options apart": with_options_apart,
    "step by step": step_by_step,
}


class _Names(ast.NodeTransformer):
    def __init__(self, found: set[str]) -> None:
        self._found = found

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "modal":
            self._found.add(node.attr)
            return ast.Name(node.attr, node.ctx)
        return node


class _Constants(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str):
            return node
        return ast.Name(self._names.setdefault(node.value, f"TEXT_{len(self._names)}"), ast.Load())


def _bodies(tree: ast.Module) -> list[list[ast.stmt]]:
    return [
        node.body for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def _last(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _steps(statement: ast.Assign) -> list[ast.stmt]:
    """The assignments that a chain of `Image.x().y().z()` is the same as; [] for what is no such chain."""
    target, found = statement.targets[0], list[ast.stmt]()
    node = statement.value
    if not isinstance(target, ast.Name) or ".Image." not in ast.unparse(node):
        return []
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        inner = node.func.value
        if not isinstance(inner, ast.Call):
            found.append(ast.Assign([target], node))
            return found[::-1]
        found.append(
            ast.Assign(
                [target],
                ast.Call(
                    ast.Attribute(ast.Name(target.id, ast.Load()), node.func.attr, ast.Load()), node.args, node.keywords
                ),
            )
        )
        node = inner
    return []
