"""What messages and pages tell people to type, set or open is there: commands, flags, settings, make targets, pages and routes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import modal
import pytest
import typer
from modal.cli.entry_point import entrypoint_cli

from stoker.advice.finding import DOCS
from stoker.advice.rules import RULES
from stoker.cli.main import cli
from stoker.config import Settings
from stoker.protocol.commands import COMMANDS

_ROOT = Path(__file__).parents[2]
_SOURCE = _ROOT / "src" / "stoker"
_PAGES = sorted(
    [*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md"), *_ROOT.glob("examples/**/*.md")],
    key=lambda page: page.as_posix(),
)
_SLOT = "\0"  # what an f-string fills in
_PROGRAMS = {"stoker": typer.main.get_command(cli), "modal": entrypoint_cli}
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_FENCE = re.compile(r"```.*?```", re.DOTALL)
_SPAN = re.compile(r"``(.+?)``|`([^`]+)`", re.DOTALL)
_OF_DOCKERFILES = {"images/plan.py", "images/layer.py"}
_NO_ADVICE = {"CHANGELOG.md"}  # tells of what was


class Text(NamedTuple):
    where: str
    text: str


def test_commands_exist() -> None:
    found = [(text.where, line) for text in (*_strings(), *_pages()) for line in _command_lines(text.text)]
    assert len(found) > 150
    wrong = {f"{where}: `{line.replace(_SLOT, '...')}`: {fault}" for where, line in found if (fault := _fault(line))}
    assert not sorted(wrong)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("modal secret update", "has no command 'update'"),
        ("stoker up --http-port 1", "has no flag --http-port"),
        ("sudo stoker doctor --fixx", "has no flag --fixx"),
        ("stoker run -- modal volumes ls", "has no command 'volumes'"),
        ("make supper", "no target 'supper'"),
        ("modal run app.py --width 3", ""),
        ("stoker token new --name NAME", ""),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str, fault: str) -> None:
    assert (fault in _fault(line)) if fault else _fault(line) == ""


def test_flags_that_messages_name_exist() -> None:
    known = {flag for program in _PROGRAMS.values() for flag in _all_flags(program)}
    wrong = set()
    for text in _messages():
        sentence = _SPAN.sub(lambda span: span[0] if span[0].startswith("`--") else " ", text.text)
        if len(sentence.split()) < 4 or "$" in sentence or text.where.partition(":")[0] in _OF_DOCKERFILES:
            continue
        wrong |= {f"{text.where}: {flag}" for flag in _FLAG.findall(sentence) if flag not in known}
    assert not sorted(wrong)


def test_settings_exist() -> None:
    fields = set(Settings.model_fields)
    named = re.compile(r"\bsettings? `?([a-z]+(?:_[a-z]+)+)\b`?(?!\()")
    in_toml = re.compile(r"^(?:    )?([a-z_]+) = .+$", re.MULTILINE)
    variables = re.compile(r"\bSTOKER_([A-Z][A-Z_]+)")
    wrong = set()
    for text in (*_strings(), *_pages()):
        wrong |= {f"{text.where}: {name}" for name in named.findall(text.text) if name not in fields}
        spans = [a or b for a, b in _SPAN.findall(_FENCE.sub("", text.text))] if text.where.endswith(".md") else []
        for code in (*_toml_blocks(text), *spans):
            wrong |= {f"{text.where}: {name}" for name in in_toml.findall(code) if name not in fields}
        wrong |= {f"{text.where}: STOKER_{name}" for name in variables.findall(text.text) if not _is_variable(name)}
    assert not sorted(wrong)


def test_pages_and_their_headings_exist() -> None:
    link = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
    wrong = set()
    for page in _PAGES:
        for target in link.findall(page.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in _anchors(file)):
                wrong.add(f"{page.relative_to(_ROOT)}: {target}")
    for text in _strings():
        wrong |= {
            f"{text.where}: {name}"
            for name in re.findall(r"\bdocs/[a-z]+\.md", text.text)
            if not (_ROOT / name).exists()
        }
    assert not sorted(wrong)
    page = _ROOT / DOCS.partition("/main/")[2]
    assert {rule.id.lower() for rule in RULES} <= _anchors(page)


def test_routes_exist() -> None:
    """Paths of the server's own that messages and pages name, against the text of the modules that declare routes."""
    declared = "\n".join(path.read_text() for path in (_SOURCE / "gateway").rglob("*.py"))
    declared += "\n".join(path.read_text() for path in (_SOURCE / "services").rglob("*.py"))
    wrong = set()
    for text in (*_strings(), *_pages()):
        for path in re.findall(r"(?<![\w/.])/(?:_stoker/\w+|metrics)\b", text.text):
            if f'"/{path.split("/")[-1]}' not in declared:
                wrong.add(f"{text.where}: {path}")
    assert not sorted(wrong)


@pytest.mark.parametrize("noun", ["dict", "queue", "nfs", "volume", "secret", "environment"])
def test_what_a_missing_object_advises_exists(noun: str) -> None:
    """Their messages put the noun in, where the source has a slot."""
    assert {f"{noun} create", f"{noun} list"} <= set(COMMANDS)


def test_methods_that_messages_name_exist() -> None:
    """`modal.Secret.from_name(...)` and the like, as far as they are the client's own."""
    wrong = set()
    for text in _messages():
        if text.where.startswith("advice/") or " " not in text.text:
            continue  # speaks of what is not there, too
        for name in re.findall(r"(?<![\w.@/-])@?modal((?:\.[A-Za-z_]+)+)\b", text.text):
            found: Any = modal
            for part in name.split(".")[1:]:
                found = getattr(found, part, None)
            if found is None:
                wrong.add(f"{text.where}: modal{name}")
    assert not sorted(wrong)


def _strings() -> Iterator[Text]:
    """All texts in the source, with a slot for what an f-string fills in."""
    for path in sorted(_SOURCE.rglob("*.py")):
        yield from _strings_of(path)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _strings_of(path: Path) -> tuple[Text, ...]:
    def found() -> Iterator[Text]:
        tree = _tree(path)
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            where = f"{path.relative_to(_SOURCE).as_posix()}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield Text(where, "".join(_part(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                yield Text(where, node.value)

    return tuple(found())


def _messages() -> Iterator[Text]:
    """The same without what is only for readers of the source."""
    for path in sorted(_SOURCE.rglob("*.py")):
        where = path.relative_to(_SOURCE).as_posix()
        lines = {
            node.body[0].lineno
            for node in ast.walk(_tree(path))
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        lines = set() if where.startswith("cli/") else lines  # there they are the help
        yield from (text for text in _strings_of(path) if int(text.where.rpartition(":")[2]) not in lines)


def _part(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else _SLOT


def _pages() -> Iterator[Text]:
    for page in _PAGES:
        if page.name not in _NO_ADVICE:
            yield Text(page.relative_to(_ROOT).as_posix(), page.read_text())


def _command_lines(text: str) -> Iterator[str]:
    begins = re.compile(r"(?:sudo )?(?:stoker|modal|make)(?=\s|$)")
    for first, second in _SPAN.findall(_FENCE.sub("", text)):
        if begins.match(span := " ".join((first or second).split())):
            yield span
    for line in text.splitlines():
        shown = line.startswith("    ") or "```" in text
        if shown and re.match(r"    \S|\S", line) and begins.match(line.strip()) and not re.search(r"[.:]$", line):
            yield line.strip()


def _fault(line: str) -> str:
    """What is wrong with a command line, "" when it can be typed."""
    line = re.split(r"\s[|>#]|&&|;|<\(", line)[0]
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    words = words[1:] if words[0] == "sudo" else words
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        return next((f"the Makefile has no target {word!r}" for word in targets if word not in _targets()), "")
    return _wrong_word(words)


def _wrong_word(words: list[str]) -> str:
    command: Any = _PROGRAMS[words[0]]
    flags = _flags(command)
    for position, word in enumerate(words[1:], 1):
        if word == _SLOT and hasattr(command, "commands"):
            return ""  # see test_what_a_missing_object_advises_exists
        word = word.strip(_SLOT)
        if word.startswith("-") and len(word) > 1:
            if word == "--":
                return _rest(words[position + 1 :])
            if word.startswith("--") and word.partition("=")[0] not in flags:
                return f"{command.name} has no flag {word}"
        elif hasattr(command, "commands") and command.name != "run":
            choices = [command.commands.get(choice) for choice in word.replace("\\", "").split("|")]  # `list|show`
            if all(choices):
                command = choices[0]
                flags |= _flags(command)
            elif word and not re.fullmatch(r"[A-Z_|<>.\[\]]+|\.\.\.", word):
                return f"{command.name} has no command {word!r}"
        elif command.name == "run":  # the rest is a command of its own, or the options of the user's function
            return _rest(words[position:])
    return ""


def _rest(words: list[str]) -> str:
    return _wrong_word(words) if words and words[0] in _PROGRAMS else ""


def _flags(command: Any) -> set[str]:
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return options | {"--help"}


def _all_flags(command: Any) -> Iterator[str]:
    yield from _flags(command)
    for below in getattr(command, "commands", {}).values():
        yield from _all_flags(below)


@cache
def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))


def _toml_blocks(text: Text) -> Iterator[str]:
    if text.where.endswith(".md"):
        yield from re.findall(r"```toml\n(.*?)```", text.text, re.DOTALL)


@cache
def _is_variable(name: str) -> bool:
    """Whether a STOKER_ variable is a setting, or read by name somewhere."""
    if name.lower() in Settings.model_fields or name == "NAME":
        return True
    places = [
        *_SOURCE.rglob("*.py"),
        *(_ROOT / "tests").rglob("*.py"),
        *(_ROOT / "bench").rglob("*.py"),
        _ROOT / "Makefile",
    ]
    read = re.compile(rf"(environ|getenv|env\b).*STOKER_{name}\b|STOKER_{name}=")
    return any(read.search(path.read_text()) for path in places if path != Path(__file__))


@cache
def _anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
