"""A pool that validates itself after its events."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from stoker.core.books import PoolSettings
from stoker.core.invariants import BrokenInvariant
from stoker.core.pool import Pool

READS = frozenset({"next_tick", "backlog", "running", "headroom", "takes", "blocked", "waited", "story", "validate"})
"""What is public in a pool and changes nothing. All else is an event."""

_WORK = 200
"""Inputs looked at per event, on average. A pool of so many is validated after each event, one of a hundred times as many after each hundredth:
else a large map would cost the square of its size."""


def _raise(broken: BrokenInvariant) -> None:
    raise broken


class CheckedPool(Pool):
    def __init__(self, settings: PoolSettings, on_broken: Callable[[BrokenInvariant], None] = _raise) -> None:
        """on_broken: is told of the first broken invariant. After that the pool goes on unchecked."""
        super().__init__(settings)
        self._on_broken: Callable[[BrokenInvariant], None] | None = on_broken
        self._unchecked = 0  # what may be looked at, in inputs
        self._happening = False  # an event of which others are part

    def _check(self) -> None:
        if self._on_broken is None:
            return
        self._unchecked += _WORK
        if self._unchecked < len(self.inputs):
            return
        self._unchecked = 0
        try:
            self.validate()
        except BrokenInvariant as broken:
            on_broken, self._on_broken = self._on_broken, None
            on_broken(broken)


def _checked(event: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(event)
    def happen(pool: CheckedPool, *args: Any, **options: Any) -> Any:
        if pool._happening:
            return event(pool, *args, **options)
        pool._happening = True
        try:
            answer = event(pool, *args, **options)
        finally:
            pool._happening = False
        pool._check()
        return answer

    return happen


for _name in vars(Pool).keys() - READS:
    if not _name.startswith("_"):
        setattr(CheckedPool, _name, _checked(getattr(Pool, _name)))
