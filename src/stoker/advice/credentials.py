"""Texts in a source that are secrets, by their own shape or by the name they are given."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

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
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|CREDENTIALS?)$", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"^$|\.\.\.|<.*>|\bx{3,}\b|xxxx|your|example|change-?me|placeholder|dummy|\bfake|test|todo|none|\*{3,}|\$\{|\{\{",
    re.IGNORECASE,
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
    return found


def mask(text: str, secrets: list[Credential]) -> str:
    """The text with all but the first characters of each secret hidden."""
    for secret in secrets:
        for line in secret.text.splitlines():
            if len(line) > 3:
                text = text.replace(line, line[:3] + "...")
    return text


def _named(tree: ast.AST) -> Iterator[tuple[str, ast.Constant]]:
    """Constants that something gives a name: assignments, entries of dicts, keyword arguments."""
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


def _kind(name: str, text: str) -> str:
    """What a named text is, or "" when it is no secret."""
    if _PLACEHOLDER.search(text):
        return ""
    for kind, pattern in _TOKENS.items():
        if pattern.search(text):
            return kind
    # The name may be that of a key, and its value still a word: `pad_token="[PAD]"`, `token="auto"`.
    likely = len(text) >= 12 and not re.search(r"\s|/", text) and re.search(r"\d", text) and _entropy(text) >= 3.0
    return "a secret" if SECRET_NAME.search(name) and likely else ""


def _entropy(text: str) -> float:
    """Bits a character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
