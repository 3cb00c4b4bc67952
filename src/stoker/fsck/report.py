"""What an examination of a data directory finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

Heal = Callable[[], None]
"""Heals a problem. Blocks. Raises StokerError or OSError."""


@dataclass
class Problem:
    """Something damaged. `detail`: what is wrong, a sentence. `depends`: what cannot do without it. `remedy`: what to do, a sentence."""

    kind: str
    name: str
    detail: str
    depends: list[str] = field(default_factory=list)
    remedy: str = ""
    heal: Heal | None = None
    healed: bool = False
    heal_error: str = ""


@dataclass
class Report:
    """checked: things by kind. unknown: of these, those that have no digests. notes: sentences about what is no damage."""

    problems: list[Problem] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    bytes_read: int = 0

    def found(
        self,
        kind: str,
        name: str,
        detail: str,
        *,
        depends: list[str] | None = None,
        remedy: str = "",
        heal: Heal | None = None,
    ) -> Problem:
        problem = Problem(kind, name, detail, depends or [], remedy, heal)
        self.problems.append(problem)
        return problem

    @property
    def damaged(self) -> int:
        """Problems that are left."""
        return sum(not problem.healed for problem in self.problems)
