"""The source of one app: its text, its syntax tree, and which findings its comments ask to leave out."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

from stoker.errors import InvalidArgument, NotFound

_IGNORE = re.compile(r"#.*?\bstoker:\s*ignore(?P<file>-file)?(?:\[(?P<rules>[^\]]*)\])?")
_NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A stretch of a file. Lines and columns count from 1; the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass
class Source:
    """`ignored` maps a line to the ids of the rules left out there; an empty set stands for all. Line 0 is the whole file."""

    path: Path
    text: str
    tree: ast.Module
    ignored: dict[int, frozenset[str]] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=list)
    _tokens: list[tuple[int, int, str]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Source:
        """Raises NotFound, or InvalidArgument with the place when it is no Python that this interpreter can read."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"There is no file {path}.") from None
        except OSError as error:
            raise NotFound(f"{path} cannot be read: {error.strerror}.") from None
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
            text = io.TextIOWrapper(io.BytesIO(raw), encoding).read()
        except (SyntaxError, UnicodeDecodeError, LookupError) as error:
            raise InvalidArgument(f"{path}: this is not Python source: {error}.") from None
        return cls.parse(path, text)

    @classmethod
    def parse(cls, path: Path, text: str) -> Source:
        """Raises InvalidArgument with the place of a syntax error."""
        try:
            tree = ast.parse(text, str(path))
        except SyntaxError as error:
            raise InvalidArgument(
                f"{path}:{error.lineno or 1}:{error.offset or 1}: syntax error: {error.msg}."
            ) from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise InvalidArgument(f"{path}: this is not Python source: {error}.") from None
        source = cls(path, text, tree)
        source._index()
        return source

    def place(self, node: ast.AST) -> Place:
        """Where the node stands. It must have a position, as statements and expressions have."""
        assert isinstance(node, (ast.expr, ast.stmt, ast.keyword, ast.arg, ast.alias))
        start, end = self.start(node), self.end(node)
        end_line = node.end_lineno or node.lineno
        return Place(
            node.lineno, start - self._starts[node.lineno - 1] + 1, end_line, end - self._starts[end_line - 1] + 1
        )

    def start(self, node: ast.expr | ast.stmt | ast.keyword | ast.arg | ast.alias) -> int:
        """Index into the text of the node's first character."""
        return self._at(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.keyword | ast.arg | ast.alias) -> int:
        """Index into the text behind the node's last character."""
        return self._at(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def segment(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        return self.text[self.start(node) : self.end(node)]

    def line_start(self, line: int) -> int:
        """Index of the first character of a line; the length of the text for the line behind the last."""
        return self._starts[line - 1] if line <= len(self._starts) else len(self.text)

    def position(self, index: int) -> tuple[int, int]:
        """Line and column, from 1, of an index into the text."""
        line = self.text.count("\n", 0, index) + 1
        return line, index - self._starts[line - 1] + 1

    def indent(self, node: ast.expr | ast.stmt) -> str:
        """The white space before the line on which the node begins."""
        line = self.text[self.line_start(node.lineno) :].split("\n", 1)[0]
        return line[: len(line) - len(line.lstrip())]

    def token_before(self, index: int) -> tuple[int, int, str]:
        """Start, end and text of the last token of code that ends at or before the index."""
        return max((token for token in self._tokens if token[1] <= index), key=lambda token: token[1])

    def leaves_out(self, rule: str, place: Place) -> bool:
        """Whether a comment of the file, or on the lines of the place, says so."""
        lines = (0, *range(place.line, place.end_line + 1))
        return any(line in self.ignored and (not self.ignored[line] or rule in self.ignored[line]) for line in lines)

    def _at(self, line: int, byte_column: int) -> int:
        start = self._starts[line - 1]
        row = self.text[start : self.line_start(line + 1)]
        return start + len(row.encode()[:byte_column].decode())

    def _index(self) -> None:
        self._starts = [0, *(index + 1 for index, character in enumerate(self.text) if character == "\n")]
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT and (found := _IGNORE.match(token.string)):
                line = 0 if found["file"] else token.start[0]
                named = found["rules"]
                rules = frozenset(name.strip().upper() for name in named.split(",")) if named else frozenset()
                known = self.ignored.get(line)
                self.ignored[line] = rules if known is None else (known | rules if known and rules else frozenset())
            if token.type not in _NOT_CODE and token.string:
                start = self._starts[token.start[0] - 1] + token.start[1]
                self._tokens.append((start, start + len(token.string), token.string))
