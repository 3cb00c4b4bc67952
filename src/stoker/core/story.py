"""What happened in a pool lately: a log of transitions, for whoever asks how an input or a container came to where it is.

It has two parts, each bounded. One has the last transitions of all kinds. The other has the last of the *notable* ones, in which something went
wrong or a container came or went: so the ordinary traffic of a large map does not push them out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

RECENT = 500
"""Transitions that each of the two parts keeps. A transition is about 200 bytes, so both are at most 200 kB."""

MAX_REASON = 200
"""Characters of another's words that a transition may quote."""

Entry = tuple[float, str, str, str]
"""The fields of a `Transition`. Pools note plain tuples, which cost a quarter of it."""


class Transition(NamedTuple):
    at: float  # seconds, by the pool's clock
    what: str  # as "is delivered"
    input_id: str  # "" for what happened to a container
    container_id: str  # "" for what happened in none

    def __str__(self) -> str:
        names = [self.input_id, self.container_id and f"[{self.container_id}]"]
        return f"{self.at:.3f} {' '.join(filter(None, names))} {self.what}"


class Story:
    def __init__(self) -> None:
        self._all: deque[Entry] = deque(maxlen=RECENT)
        self._notable: deque[Entry] = deque(maxlen=RECENT)
        self.note: Callable[[Entry], None] = self._all.append
        """Keeps an ordinary transition. Called for each of an input's steps, so it is the deque's own method."""

    def mark(self, entry: Entry) -> None:
        """Keeps a notable transition."""
        self._all.append(entry)
        self._notable.append(entry)

    @property
    def now(self) -> float:
        """The time of the last transition, for one that is not told the time."""
        return self._all[-1][0] if self._all else 0.0

    def of(self, *ids: str) -> list[Transition]:
        """The transitions of inputs and containers that are kept, in the order in which they happened. Without ids, all."""
        recent = {id(entry) for entry in self._all}
        older = [entry for entry in self._notable if id(entry) not in recent]
        wanted = set(ids)
        return [
            Transition(*entry)
            for entry in (*older, *self._all)
            if not wanted or entry[2] in wanted or entry[3] in wanted
        ]
