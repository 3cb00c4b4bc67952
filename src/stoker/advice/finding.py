"""What a rule says about a place in an app."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from stoker.advice import edits
from stoker.advice.credentials import credentials, mask
from stoker.advice.edits import Edit
from stoker.advice.source import Place, Source

DOCS = "https://github.com/stoker-dev/stoker/blob/main/docs/advice.md"


class Severity(str, enum.Enum):
    """How bad: `error` fails or leaks, `warning` costs time or money on every cold start or call, `note` may be meant so."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


@dataclass(frozen=True)
class Fix:
    """Edits that put the finding right in this very source."""

    edits: Sequence[Edit]

    def diff(self, source: Source) -> str:
        """The changed lines, without the secrets that stand near them."""
        return mask(edits.diff(source, self.edits), credentials(source.tree))


@dataclass(frozen=True)
class Finding:
    """`message` says what is wrong here and why it matters; `help` what to do where no fix can be written for the reader."""

    rule: str
    severity: Severity
    place: Place
    message: str
    fix: Fix | None = None
    help: str = ""

    @property
    def url(self) -> str:
        return f"{DOCS}#{self.rule.lower()}"
