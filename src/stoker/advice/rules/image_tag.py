"""STK009: the base image is another one tomorrow."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stoker.advice.app import App
from stoker.advice.edits import Edit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.image import method
from stoker.advice.rules.base import Rule

_FLOATING = {"", "latest", "nightly", "main", "master", "stable", "edge", "dev"}
# Tags that are known to exist and stay.
_KNOWN = {
    "nvidia/cuda": "12.8.1-devel-ubuntu22.04",
    "ubuntu": "22.04",
    "debian": "bookworm-slim",
    "python": "3.11-slim-bookworm",
    "pytorch/pytorch": "2.7.1-cuda12.8-cudnn9-devel",
}
_REGISTRIES = {"from_registry", "from_aws_ecr", "from_gcp_artifact_registry"}


def check(app: App) -> Iterator[Finding]:
    for node in ast.walk(app.source.tree):
        if not (isinstance(node, ast.Call) and method(node) in _REGISTRIES and node.args):
            continue
        reference = app.scope.value(node.args[0])
        if not isinstance(reference, str) or "@sha256:" in reference or not reference:
            continue
        name, tag = split(reference)
        if tag not in _FLOATING:
            continue
        known = _KNOWN.get(name.removeprefix("docker.io/").removeprefix("library/"))
        written = isinstance(node.args[0], ast.Constant)
        place = app.source.place(node.args[0])
        said = f"`{reference}` names no version" if not tag else f"`{reference}` follows the tag {tag!r}"
        fix = None
        if known and written:
            fix = Fix([Edit(app.source.start(node.args[0]), app.source.end(node.args[0]), f'"{name}:{known}"')])
        yield Finding(
            RULE.id,
            Severity.WARNING,
            place,
            f"{said}: what it holds changes with time, so no build can be repeated.",
            fix,
            help=""
            if fix
            else f"Name a version, or better the digest that works today: {name}@sha256:... (`skopeo inspect docker://{reference}` prints it).",
        )


def split(reference: str) -> tuple[str, str]:
    """Name and tag of an image reference; "" for no tag. A port in the registry's name is none."""
    head, colon, tag = reference.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (reference, "")


RULE = Rule("STK009", "floating-tag", "The base image has no fixed version", check)
