"""How a function whose containers do not come up is treated: tried again, ever more slowly, and given up in the end. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 60.0  # seconds before another start, doubled with each failure
PATIENCE = 20  # failures in a row for a deployed function, about a quarter of an hour: the trouble may pass
IMPATIENCE = 3  # for an app whose user sits and waits for an answer


@dataclass
class CrashLoop:
    """The failed starts of one function since its last good one."""

    failures: int = 0
    not_before: float = 0.0  # no start before this time

    def failed(self, now: float, *, killed: bool) -> None:
        """A container ended before it took inputs. killed: by a signal from outside, which says nothing about the function."""
        self.failures += 1
        delay = _FIRST_DELAY if killed else min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(self.failures - 1, 10))
        self.not_before = now + delay

    def succeeded(self) -> None:
        self.failures, self.not_before = 0, 0.0

    def hopeless(self, *, deployed: bool) -> bool:
        return self.failures >= (PATIENCE if deployed else IMPATIENCE)
