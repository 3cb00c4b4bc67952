"""One thing that is looked at: what it is, why it is needed, how it is found, and how it is put right."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from stoker.config import Settings

Report = Callable[[str], None]
"""Receives lines of progress."""


class State(str, enum.Enum):
    OK = "ok"
    WARNING = "warning"
    """A server works without it, less well or with fewer features."""
    FAILED = "failed"
    """A server with these settings does not work without it."""


@dataclass(frozen=True)
class Finding:
    """`detail` says what was found, `advice` what to do about it (empty when all is well)."""

    state: State
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """`packages` (of Debian) or `repair` bring what is missing; a check with neither can only give advice.

    `look` and `repair` block. `repair` raises StokerError when it cannot do its work."""

    name: str
    why: str
    look: Callable[[Settings], Finding]
    packages: tuple[str, ...] = ()
    repair: Callable[[Settings, Report], None] | None = None

    @property
    def fixable(self) -> bool:
        return bool(self.packages) or self.repair is not None


def ok(detail: str) -> Finding:
    return Finding(State.OK, detail)


def warning(detail: str, advice: str) -> Finding:
    return Finding(State.WARNING, detail, advice)


def failed(detail: str, advice: str) -> Finding:
    return Finding(State.FAILED, detail, advice)
