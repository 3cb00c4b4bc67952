"""Checking files and directories against the rules."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stoker.advice.app import App
from stoker.advice.finding import Finding
from stoker.advice.rules import RULES, Rule
from stoker.advice.source import Source
from stoker.errors import InvalidArgument, NotFound, StokerError

_NOT_OURS = {"node_modules", "__pycache__", "site-packages", "venv", "env", "build", "dist"}


@dataclass
class Report:
    """`findings` by file in the order of their places; `errors` are sentences on what could not be read."""

    findings: list[tuple[Source, Finding]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def check_paths(paths: Sequence[Path], rules: Sequence[Rule] = RULES) -> Report:
    """Checks files, and below directories all Python files that mention modal. Raises NotFound when there is nothing to check."""
    report = Report()
    for path in _files(paths):
        try:
            source = Source.read(path)
            found = check_source(source, rules)
        except StokerError as error:
            report.errors.append(str(error))
        except RecursionError:
            report.errors.append(f"{path}: its expressions are nested too deeply to be checked.")
        else:
            report.files.append(path)
            report.findings += [(source, finding) for finding in found]
    return report


def check_source(source: Source, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """The findings that no comment asks to leave out, in the order of their places."""
    app = App.read(source)
    found = [finding for rule in rules for finding in rule.check(app)]
    kept = [finding for finding in found if not source.leaves_out(finding.rule, finding.place)]
    return sorted(kept, key=lambda finding: (finding.place.line, finding.place.column, finding.rule))


def choose(select: Iterable[str], ignore: Iterable[str]) -> list[Rule]:
    """The rules that are selected (all when none is) and not ignored, by id or name. Raises InvalidArgument for one that is not there."""
    selected, ignored = set(map(_rule_id, select)), set(map(_rule_id, ignore))
    return [rule for rule in RULES if (not selected or rule.id in selected) and rule.id not in ignored]


def _rule_id(given: str) -> str:
    for rule in RULES:
        if given.strip().upper() == rule.id or given.strip().lower() == rule.name:
            return rule.id
    raise InvalidArgument(
        f"There is no rule {given.strip()!r}. The rules are {RULES[0].id} to {RULES[-1].id}; `stoker check --list` shows them."
    )


def _files(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            below = [file for file in _python_files(path) if _mentions_modal(file)]
            if not below and len(paths) == 1:
                raise NotFound(f"No Python file below {path} mentions modal. Name the file of your app.")
            found.update(dict.fromkeys(below))
        else:
            found[path] = None
    return list(found)


def _python_files(directory: Path) -> Iterator[Path]:
    for parent, names, files in os.walk(directory):
        names[:] = sorted(name for name in names if not _skipped(Path(parent) / name, _NOT_OURS))
        yield from (Path(parent) / name for name in sorted(files) if name.endswith(".py"))


def _skipped(directory: Path, names: Collection[str]) -> bool:
    return directory.name.startswith(".") or directory.name in names or (directory / "pyvenv.cfg").exists()


def _mentions_modal(file: Path) -> bool:
    try:
        return b"modal" in file.read_bytes()
    except OSError:
        return True  # reading it says why not
