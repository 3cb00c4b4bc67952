"""Changes to a source that put a finding right: pieces of text to replace, made so that the file keeps its layout."""

from __future__ import annotations

import ast
import difflib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stoker.advice.source import Source


@dataclass(frozen=True)
class Edit:
    """Puts `text` in the place of what stands between two indices of the source's text."""

    start: int
    end: int
    text: str


def apply(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits made. They must not overlap; several at one index come out in the order given."""
    ordered = sorted(enumerate(edits), key=lambda pair: (pair[1].start, pair[0]), reverse=True)
    for _, edit in ordered:
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def diff(source: Source, edits: Iterable[Edit]) -> str:
    """The changed lines in the unified format, without file names, with one line around each change."""
    before, after = source.text.splitlines(), apply(source.text, edits).splitlines()
    lines = list(difflib.unified_diff(before, after, n=1, lineterm=""))
    return "\n".join(lines[2:])


def set_options(source: Source, call: ast.Call, options: Mapping[str, str]) -> list[Edit]:
    """Gives a call keyword arguments, or other values to those it has."""
    present = {keyword.arg: keyword.value for keyword in call.keywords}
    found = [
        Edit(source.start(present[name]), source.end(present[name]), value)
        for name, value in options.items()
        if name in present
    ]
    added = [f"{name}={value}" for name, value in options.items() if name not in present]
    return [*found, *(add_items(source, call, added) if added else [])]


def add_items(source: Source, container: ast.Call | ast.Dict | ast.List, items: Sequence[str]) -> list[Edit]:
    """Adds last items before the closing bracket, on lines of their own when the others have that."""
    close = source.end(container) - 1
    _, last, text = source.token_before(close)
    if text in "([{":
        return [Edit(last, last, ", ".join(items))]
    comma = [] if text == "," else [Edit(last, last, ",")]
    line = source.position(last)[0]
    if source.position(close)[0] == line:
        return [*comma, Edit(last, last, f" {', '.join(items)}")]
    indent = _indent_of_line(source, last)
    below = source.line_start(line + 1)  # behind the comment that the last item's line may end with
    return [*comma, Edit(below, below, "".join(f"{indent}{item},\n" for item in items))]


def remove_argument(source: Source, call: ast.Call, keyword: ast.keyword) -> Edit:
    """Takes a keyword argument away, with its comma, and with its line where it has one of its own."""
    arguments: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    arguments.sort(key=source.start)
    position = next(index for index, argument in enumerate(arguments) if argument is keyword)
    if position + 1 < len(arguments):
        return Edit(source.start(keyword), source.start(arguments[position + 1]), "")
    start = source.end(arguments[position - 1]) if position else source.end(call.func) + 1
    return Edit(start, source.end(keyword), "")


def add_decorator(source: Source, below: ast.expr, text: str) -> Edit:
    """A decorator on the line below another one, with the comment that line may end with left where it is."""
    line_end = source.line_start((below.end_lineno or below.lineno) + 1)
    return Edit(line_end, line_end, f"{source.indent(below)}{text}\n")


def add_before(source: Source, node: ast.stmt, text: str) -> Edit:
    """Lines before a statement and its decorators, indented as it is."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    start = source.line_start(min([node.lineno, *(decorator.lineno for decorator in decorators)]))
    return Edit(start, start, textwrap.indent(text, source.indent(node)))


def add_import(source: Source, statement: str) -> list[Edit]:
    """An import behind the module's first ones, unless it is there."""
    if any(isinstance(node, ast.Import) and ast.unparse(node) == statement for node in source.tree.body):
        return []
    line = 1
    for node in source.tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (docstring or future):
            line = node.lineno if not getattr(node, "decorator_list", None) else node.decorator_list[0].lineno  # type: ignore[attr-defined]
            break
    at = source.line_start(line)
    return [Edit(at, at, f"{statement}\n")]


def _indent_of_line(source: Source, index: int) -> str:
    line = source.text[source.line_start(source.position(index)[0]) : index]
    return line[: len(line) - len(line.lstrip())]
