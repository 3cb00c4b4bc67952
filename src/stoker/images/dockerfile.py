"""Dockerfiles as the client sends them: cut into instructions, and the few words of them that Stoker itself understands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stoker.errors import ImageBuildFailed

_ESCAPE = re.compile(r"^#\s*escape\s*=\s*(\S)\s*$", re.IGNORECASE)
_DIRECTIVE = re.compile(r"^#\s*\w+\s*=")
_HEREDOC = re.compile(r"^\d*<<(-?)(?:'([^'\s]+)'|\"([^\"\s]+)\"|([A-Za-z_][\w.-]*))")
_FLAG = re.compile(r"^--[a-z-]+(?:=\S*)?(?:\s+|$)")
_VARIABLE = re.compile(r"\\(.)|\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^}]*))?\})")
_DOLLAR = re.compile(r"\$\$|\$[A-Za-z_]\w*|\$\{[A-Za-z_]\w*(?::?[-+][^}]*)?\}")
_CLIENT_ENV = re.compile(r"^ENV (?P<name>[^\s=]+)=(?P<value>.*)$", re.DOTALL)
_TAKES_HEREDOCS = frozenset({"RUN", "COPY", "ADD"})


@dataclass(frozen=True)
class Heredoc:
    """A here-document: `token` as written in the instruction (`<<-'EOF'`), its delimiter and its text."""

    token: str
    name: str
    body: str


@dataclass(frozen=True)
class Instruction:
    """One instruction. `text` is verbatim, `value` what follows the keyword with continuation lines joined."""

    keyword: str
    value: str
    text: str
    heredocs: tuple[Heredoc, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """The leading `--name=value` words."""
        return self._split()[0]

    @property
    def arguments(self) -> str:
        """`value` without its flags."""
        return self._split()[1]

    def _split(self) -> tuple[tuple[str, ...], str]:
        flags, rest = [], self.value
        while match := _FLAG.match(rest):
            flags.append(match.group().strip())
            rest = rest[match.end() :]
        return tuple(flags), rest


@dataclass(frozen=True)
class Stage:
    """One `FROM` and the instructions up to the next one. `image` has build arguments filled in, `name` may be empty."""

    image: str
    name: str
    source: Instruction
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Dockerfile:
    """`arguments` are the values of those `ARG`s that come before the first `FROM`."""

    arguments: Mapping[str, str]
    stages: tuple[Stage, ...]

    @property
    def final(self) -> Stage:
        return self.stages[-1]


def parse(commands: Sequence[str], build_args: Mapping[str, str]) -> Dockerfile:
    """Cuts `commands` (lines, or pieces of several lines) into stages. Raises ImageBuildFailed when that cannot be done."""
    lines = "\n".join(commands).split("\n")
    directives: list[str] = []
    while lines and _DIRECTIVE.match(lines[0]):
        directives.append(lines.pop(0))
    escape = next((match.group(1) for text in directives if (match := _ESCAPE.match(text))), "\\")
    preamble: list[Instruction] = []
    stages: list[tuple[Instruction, list[Instruction]]] = []
    for instruction in _instructions(lines, escape):
        if instruction.keyword == "FROM":
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif instruction.keyword == "ARG":
            preamble.append(instruction)
        else:
            raise ImageBuildFailed(
                f"The image starts with `{instruction.text}`, but its first instruction must be FROM."
            )
    if not stages:
        raise ImageBuildFailed("The image has no FROM instruction, so there is nothing to build on.")
    values = _global_arguments(preamble, build_args)
    return Dockerfile(values, tuple(_stage(*stage, values) for stage in stages))


def client_environment(lines: Sequence[str]) -> dict[str, str] | None:
    """What `Image.env({...})` sets, when `lines` are exactly what the client makes of that; None for any other.

    The client quotes the values as a shell wants it, so that Docker's rules would keep `$PATH` as it is. It is meant to be filled in."""
    if len(lines) < 2 or lines[0] != "FROM base":
        return None
    values = {}
    for line in lines[1:]:
        match = _CLIENT_ENV.match(line)
        if match is None:
            return None
        try:
            words = shlex.split(match["value"])
        except ValueError:
            return None
        value = words[0] if words else ""
        if len(words) > 1 or shlex.quote(value) != match["value"]:
            return None
        values[match["name"]] = value
    return values


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """Fills `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}` in; `$$`, backslashes and quotes stay as they are."""

    def replace(match: re.Match[str]) -> str:
        return match.group() if match.group() == "$$" else expand(match.group(), values)

    return _DOLLAR.sub(replace, text)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Fills `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}` in; unknown names become empty. `\\$` stays a dollar."""

    def replace(match: re.Match[str]) -> str:
        escaped, plain, braced, operator, word = match.groups()
        if escaped is not None:
            return escaped if escaped == "$" else "\\" + escaped
        value = values.get(plain or braced, "")
        if operator and operator.endswith("-"):
            return value or expand(word, values)
        if operator:
            return expand(word, values) if value else ""
        return value

    return _VARIABLE.sub(replace, text)


def assignments(value: str, env: Mapping[str, str]) -> dict[str, str]:
    """What `ENV value` sets, on top of `env`: `A=1 B='two words'` or the old form `A all the rest`.

    Single quotes keep `$` as it is, double quotes and bare words have variables filled in."""
    first = value.split(None, 1)
    if first and "=" not in first[0]:
        return {first[0]: expand(first[1].strip() if len(first) > 1 else "", env)}
    result: dict[str, str] = {}
    for word in words(value, env):
        name, separator, text = word.partition("=")
        if not separator:
            raise ImageBuildFailed(f"`ENV {value}` is not understood: {word!r} has no `=`.")
        result[name] = text
    return result


def command(value: str, shell: Sequence[str] = ("/bin/sh", "-c")) -> tuple[str, ...]:
    """The words of `CMD`, `ENTRYPOINT` or `RUN`: a JSON list as it is, the shell form as a command for `shell`."""
    words = json_words(value)
    if words is not None:
        return words
    return (*shell, value) if value.strip() else ()


def json_words(value: str) -> tuple[str, ...] | None:
    """The words of the JSON form; None for the other form."""
    if not value.lstrip().startswith("["):
        return None
    try:
        parsed = json.loads(value)
    except ValueError:
        return None
    return tuple(parsed) if isinstance(parsed, list) and all(isinstance(word, str) for word in parsed) else None


def _instructions(lines: Sequence[str], escape: str) -> Iterable[Instruction]:
    # Docker allows white space between the escape character and the end of the line.
    continued = re.compile(re.escape(escape) + r"[ \t]*$")
    rest = iter(lines)
    for line in rest:
        if _ignored(line):
            continue
        text, parts = [line], [line]
        while match := continued.search(parts[-1]):
            parts[-1] = parts[-1][: match.start()]
            following = next((later for later in rest if not _ignored(later)), None)
            if following is None:
                text[-1] = parts[-1]
                break
            text.append(following)
            parts.append(following)
        keyword, _, value = "".join(parts).strip().partition(" ")
        if "\t" in keyword:
            keyword, _, value = "".join(parts).strip().partition("\t")
        keyword, value = keyword.upper(), value.strip()
        heredocs = tuple(_heredocs(value, rest)) if keyword in _TAKES_HEREDOCS else ()
        yield Instruction(keyword, value, "\n".join(text), heredocs)


def _ignored(line: str) -> bool:
    stripped = line.strip()
    return not stripped or stripped.startswith("#")


def _heredocs(value: str, lines: Iterable[str]) -> Iterable[Heredoc]:
    for token, tabs, name in _heredoc_tokens(value):
        body: list[str] = []
        for line in lines:
            text = line.lstrip("\t") if tabs else line
            if text == name:
                break
            body.append(text)
        else:
            raise ImageBuildFailed(f"The here-document {token} in the image's commands has no closing line `{name}`.")
        yield Heredoc(token, name, "".join(line + "\n" for line in body))


def _heredoc_tokens(value: str) -> Iterable[tuple[str, bool, str]]:
    """(token, whether leading tabs are cut, delimiter) of each here-document; `<<` inside quotes or words is none."""
    quote, start_of_word, position = "", True, 0
    while position < len(value):
        char = value[position]
        if quote:
            quote = "" if char == quote else quote
        elif start_of_word and (match := _HEREDOC.match(value[position:])):
            yield match.group(), bool(match.group(1)), next(filter(None, match.groups()[1:]))
            position += match.end()
            continue
        elif char in "'\"":
            quote = char
        elif char == "\\":
            position += 1
        start_of_word = not quote and char in " \t;|&("
        position += 1


def _global_arguments(preamble: Iterable[Instruction], build_args: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for instruction in preamble:
        name, separator, default = instruction.value.partition("=")
        if name in build_args:
            values[name] = build_args[name]
        elif separator:
            values[name] = expand("".join(shlex.split(default)), values)
    return values


def _stage(source: Instruction, instructions: Sequence[Instruction], values: Mapping[str, str]) -> Stage:
    words = source.arguments.split()
    if not words or (len(words) != 1 and not (len(words) == 3 and words[1].upper() == "AS")):
        raise ImageBuildFailed(f"`{source.text}` is not understood; expected `FROM image` or `FROM image AS name`.")
    name = words[2] if len(words) == 3 else ""
    return Stage(expand(words[0].strip("\"'"), values), name, source, tuple(instructions))


def words(value: str, env: Mapping[str, str]) -> Iterable[str]:
    """Splits like Docker does: white space separates, quotes group, variables are filled in outside single quotes."""
    word, started, position = "", False, 0
    while position < len(value):
        char = value[position]
        if char.isspace():
            if started:
                yield word
            word, started = "", False
        elif char == "'":
            end = value.find("'", position + 1)
            end = len(value) if end < 0 else end
            word, started, position = word + value[position + 1 : end], True, end
        elif char == '"':
            match = re.compile(r'((?:[^"\\]|\\.)*)"?', re.DOTALL).match(value, position + 1)
            assert match is not None
            inside = re.sub(r'\\(["\\])', r"\1", expand(match.group(1), env))
            word, started, position = word + inside, True, match.end() - 1
        elif char == "\\" and position + 1 < len(value):
            position += 1
            word, started = word + value[position], True
        else:
            match = re.compile(r"[^\s'\"\\]+").match(value, position)
            assert match is not None
            word, started, position = word + expand(match.group(), env), True, match.end() - 1
        position += 1
    if started:
        yield word
