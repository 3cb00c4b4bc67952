"""STK010: packages without versions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from stoker.advice.app import App
from stoker.advice.edits import Edit
from stoker.advice.finding import Finding, Fix, Severity
from stoker.advice.image import method, packages
from stoker.advice.rules.base import Rule

_STEPS = {"pip_install", "uv_pip_install"}
_PINNED = re.compile(r"(===?|~=|<|@)")
_NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?")
_LOCKS = ("requirements.txt", "requirements.lock", "uv.lock", "poetry.lock", "pylock.toml")


def check(app: App) -> Iterator[Finding]:
    told: set[int] = set()
    for image in app.images:
        found = [
            (node, text)
            for step in image.steps
            if method(step) in _STEPS
            for node, text in packages(app.scope, step)
            if id(node) not in told  # of an image that this one is made from
        ]
        told |= {id(node) for node, _ in found}
        loose = [(node, text) for node, text in found if _is_loose(text)]
        if loose:
            yield _finding(app, loose, partly=len(loose) < len(found))


def _finding(app: App, loose: list[tuple[ast.expr, str]], *, partly: bool) -> Finding:
    names = ", ".join(dict.fromkeys(text for _, text in loose[:6])) + (", ..." if len(loose) > 6 else "")
    versions = {text: version for _, text in loose if (version := _version(app.source.path, text))}
    changes = [edit for node, text in loose if text in versions and (edit := _pin(app, node, text, versions[text]))]
    return Finding(
        RULE.id,
        Severity.NOTE if partly else Severity.WARNING,
        app.source.place(loose[0][0]),
        f"No version is fixed for {names}: a later build, on this or another server, installs something else.",
        Fix(changes) if changes else None,
        help=_advice([text for _, text in loose if text not in versions]),
    )


def _advice(loose: list[str]) -> str:
    """What to write for those that no lock file and no installed package gives a version."""
    names = list(dict.fromkeys(_bare(text) for text in loose if not _is_repository(text)))
    said = []
    if names:
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        said.append(
            f"Write `==` and the version that works today behind {shown} (`pip index versions {names[0]}` lists them)."
        )
    if any(map(_is_repository, loose)):
        said.append("Write @ and a commit behind the address of a repository.")
    return " ".join(said)


def _is_repository(requirement: str) -> bool:
    return requirement.startswith("git+")


def _is_loose(requirement: str) -> bool:
    if _is_repository(requirement):
        return "@" not in requirement.partition("://")[2].rpartition("/")[2]
    wanted = requirement.partition(";")[0]  # behind it are conditions such as python_version < "3.12"
    return (
        bool(_NAME.match(wanted))
        and not _PINNED.search(wanted)
        and not wanted.strip().endswith((".whl", ".gz", ".zip"))
    )


def _pin(app: App, node: ast.expr, text: str, version: str) -> Edit | None:
    """The requirement with its version; for `a b` in one string and the like, none."""
    if not isinstance(node, ast.Constant) or not re.fullmatch(r"[A-Za-z0-9._-]+(\[[^\]]*\])?", text):
        return None
    return Edit(app.source.start(node), app.source.end(node), f'"{text}=={version}"')


def _version(app: Path, requirement: str) -> str | None:
    """The version a lock file beside the app names, else that of the package where this runs; None without either."""
    if _is_repository(requirement):
        return None
    name = "[-_.]+".join(map(re.escape, re.split(r"[-_.]+", _bare(requirement))))
    for file in (app.resolve().parent / lock for lock in _LOCKS):
        if not file.is_file():
            continue
        text = file.read_text(errors="replace")
        pattern = rf'(?im)^{name}(?:\[[^\]]*\])?==([\w.+!-]+)|^name = "{name}"\s*\nversion = "([^"]+)"'
        if found := re.search(pattern, text):
            return found[1] or found[2]
    try:
        return metadata.version(_bare(requirement)).partition("+")[0]
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _bare(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found[1] if found else requirement


RULE = Rule("STK010", "unpinned-packages", "Packages are installed without versions", check)
