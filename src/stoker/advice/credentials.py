"""Texts in a source that are secrets, by their own shape or by the name they are given."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_FALL_BACKS = {"os.environ.get", "os.getenv", "os.environ.setdefault", "environ.get", "getenv"}
_TOKENS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "an OpenAI or Anthropic key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}\b"),
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a GitHub token": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}\b"),
    "a Google API key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}\b"),
    "a Modal token": re.compile(r"\b(ak|as)-[A-Za-z0-9]{22}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
SECRET_NAME = re.compile(
    r"(^|_|(?<=[a-z])(?=[A-Z]))(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|AUTH_KEY|CREDENTIALS?)$",
    re.IGNORECASE,
)
_SURE_NAME = re.compile(
    r"(PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|AUTH_KEY|(API|AUTH|ACCESS|BEARER)_?TOKEN)$",
    re.IGNORECASE,
)
"""Names whose value is a secret even if it is made of words: `API_KEY = "super-secret-key"`. A `token` may be a word of a language model."""
_PLACEHOLDER = re.compile(
    r"^$|\.\.\.|<.*>|\bx{3,}\b|xxxx|your|example|change-?me|placeholder|dummy|\bfake|test|todo|none|\*{3,}|\$\{|\{\{",
    re.IGNORECASE,
)
_NO_KEY = re.compile(
    r"^(empty|unused|(sk-)?(not?|no)[-_ ]?(needed|required|used|set|key|auth|token|password).*|local\w*|ollama|lm-?studio|anything|string|str|text"
    r"|bearer|basic|auto|optional|required|missing|unknown|default|redacted|null|true|false|admin|root|postgres|passw(or)?d|secret|token"
    r"|(access|refresh|id|client|auth|bearer|api|user)_(token|secret|key|password)(_\w+)?|api[-_]?key|key|(x-)?[a-z]*-?api-key|x-[\w-]+)$",
    re.IGNORECASE,
)
"""What is given where a program wants a key and nobody checks it, and names of headers and types."""
_VARIABLE = re.compile(r"^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$")
_BEARER = re.compile(r"^(Bearer|Basic|Token) \S{8,}$")
_IN_URL = re.compile(
    r"^[a-z][a-z0-9+.-]*://[^:/@\s]*:(?P<password>[^:/@\s{<$%]{4,})@(?!localhost|127\.|0\.0\.0\.0)", re.IGNORECASE
)


@dataclass(frozen=True)
class Credential:
    """`name` is what the text is assigned to or the key it stands under, "" without one; `kind` says what it is."""

    node: ast.Constant
    text: str
    kind: str
    name: str


def credentials(tree: ast.AST) -> list[Credential]:
    """All of them, each once."""
    found = [
        Credential(node, node.value, kind, name)
        for name, node in _named(tree)
        if isinstance(node.value, str) and (kind := _kind(name, node.value))
    ]
    seen = {id(each.node) for each in found}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in seen:
            for kind, pattern in _TOKENS.items():
                match = pattern.search(node.value)
                if match and not _PLACEHOLDER.search(match[0]):
                    found.append(Credential(node, node.value, kind, ""))
                    break
            else:
                url = _IN_URL.match(node.value)
                if url and not _PLACEHOLDER.search(url["password"]) and not _NO_KEY.match(url["password"]):
                    found.append(Credential(node, node.value, "an address with a password", ""))
    return found


def mask(text: str, secrets: list[Credential]) -> str:
    """The text with all but the first characters of each secret hidden."""
    for secret in secrets:
        for line in secret.text.splitlines():
            if len(line) > 3:
                text = text.replace(line, line[:3] + "...")
    return text


def _named(tree: ast.AST) -> Iterator[tuple[str, ast.Constant]]:
    """Constants that something gives a name: assignments, entries of dicts, arguments and their defaults, and what a name is compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value
                elif isinstance(target, ast.Attribute):
                    yield target.attr, node.value
                elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                    yield str(target.slice.value), node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
            if isinstance(node.target, ast.Name):
                yield node.target.id, node.value
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    yield str(key.value), value
        elif isinstance(node, ast.keyword) and node.arg and isinstance(node.value, ast.Constant):
            yield node.arg, node.value
        elif isinstance(node, ast.arguments):
            yield from _defaults(node)
        elif isinstance(node, ast.Compare) and len(node.comparators) == 1:
            sides = (node.left, node.comparators[0])
            for one, other in (sides, sides[::-1]):
                if isinstance(other, ast.Constant) and (name := _last_name(one)):
                    yield name, other
        elif isinstance(node, ast.Call) and len(node.args) == 2:
            constants = [argument for argument in node.args if isinstance(argument, ast.Constant)]
            if len(constants) == 2 and ast.unparse(node.func) in _FALL_BACKS:
                yield str(constants[0].value), constants[1]


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.Constant]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(positional[::-1], arguments.defaults[::-1], strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    yield from ((parameter.arg, value) for parameter, value in pairs if isinstance(value, ast.Constant))


def _last_name(node: ast.expr) -> str:
    """What a variable, an attribute or an entry is called."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return str(node.slice.value) if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) else ""


def _kind(name: str, text: str) -> str:
    """What a named text is, or "" when it is no secret."""
    if _PLACEHOLDER.search(text):
        return ""
    for kind, pattern in _TOKENS.items():
        if pattern.search(text):
            return kind
    if _BEARER.match(text) and name.lower() == "authorization":
        return "a secret"
    words = re.fullmatch(r"[A-Za-z]+", text) and not re.search("secret|passw", text, re.IGNORECASE)
    plain = _NO_KEY.match(text) or _VARIABLE.match(text) or re.search(r"\s|^/|://|^<|^\[", text)
    word = words and (name.islower() or (len(text) < 12 and not re.search("PASS", name)))
    if _SURE_NAME.search(name) and len(text) >= 6 and not plain and not word:
        return "a secret"
    if SECRET_NAME.search(name) and not plain and re.match(r"super-?secret", text, re.IGNORECASE):
        return "a secret"
    # The name may be that of a key, and its value still a word: `pad_token="[PAD]"`, `token="auto"`.
    likely = len(text) >= 12 and not re.search(r"\s|/", text) and re.search(r"\d", text) and _entropy(text) >= 3.0
    return "a secret" if SECRET_NAME.search(name) and likely else ""


def _entropy(text: str) -> float:
    """Bits a character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
