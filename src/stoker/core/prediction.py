"""When a function will need containers again, learnt from its idle times. Pure: time is an argument.

In the spirit of the hybrid histogram policy of Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020): a histogram of idle times tells how
long a container is worth keeping, and when one is worth starting before it is asked for. Three things differ. There is a histogram for
each *level* of demand (level k is idle while fewer than k containers are needed), so that bursts and concurrency are learnt as well. Bins
grow with the time, so that one histogram serves seconds and days. And instead of percentiles, a price decides: being warm costs container-seconds
and a start that nobody waits for is worth some, and the windows with the greatest gain are found by dynamic programming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_RATIO = math.log(1.02)  # bins are 2% wide
_SLACK, _SLACK_SHARE = 0.25, 0.001  # seconds, and share of itself, by which an idle time may miss those that were seen
_SHORTEST = 0.25  # seconds; idle times below it are all alike
_LONGEST = 86_400.0 * 2  # seconds; the function does not return, as far as anybody plans
_MEMORY = 0.98  # weight of what was seen before, at each new idle time: about the last 50 count
_PRIOR = 1.0  # idle times made up at the beginning, evenly spread over the magnitudes from _SHORTEST to _LONGEST
_START_PRICE = (
    3.0  # container-seconds of a second of starting: the processors work, while an idle container only lies in memory
)
_ENOUGH = 3  # idle times before a level's own history is believed
_NEVER = math.inf
_LEVELS = 64  # containers whose comings and goings are followed one by one


@dataclass(frozen=True)
class Window:
    """Seconds after the beginning of idleness in which a container is kept warm."""

    begin: float
    end: float


@dataclass(slots=True)
class _Bin:
    """Idle times that are nearly alike: their weight, and the shortest and the longest."""

    weight: float
    low: float
    high: float


class IdleTimes:
    """The idle times of one level of demand, older ones fading."""

    def __init__(self) -> None:
        self.count = 0  # ever seen
        self._bins: dict[int, _Bin] = {}
        self._scale = 1.0  # what a new idle time weighs; growing weights instead of fading ones touch one bin at a time

    def add(self, seconds: float) -> None:
        self.count += 1
        self._scale /= _MEMORY
        seconds = min(max(seconds, _SHORTEST), _LONGEST * 0.99)
        index = int(math.log(seconds / _SHORTEST) / _RATIO)
        known = self._bins.setdefault(index, _Bin(0.0, seconds, seconds))
        known.weight += self._scale
        known.low, known.high = min(known.low, seconds), max(known.high, seconds)
        if self._scale > 1e6:
            self._bins = {i: b for i, b in self._bins.items() if b.weight / self._scale > 1e-3}
            for kept in self._bins.values():
                kept.weight /= self._scale
            self._scale = 1.0

    def warm_windows(self, worth: float, start: float) -> tuple[Window, ...]:
        """When to be warm. worth: container-seconds one avoided start is worth; start: seconds of one. Windows do not overlap."""
        segments = self._segments()
        left = sum(weight for *_, weight in segments)  # the weight of idle times that have not ended yet
        on, off = 0.0, 0.0  # the best gain so far when warm, and when not; at the beginning a container is there
        choices: list[tuple[bool, bool]] = []  # by segment: (on came from on, off came from off)
        for begin, end, weight in segments:
            left = max(0.0, left - weight)
            gain = (worth + start) * weight - (end - begin) * (left + weight / 2)
            starting = off - _START_PRICE * start * (left + weight)
            choices.append((on >= starting, off >= on))
            on, off = max(on, starting) + gain, max(off, on)
        return _windows(segments, choices, on > off)

    def _segments(self) -> list[tuple[float, float, float]]:
        """(begin, end, weight) from nothing to _LONGEST, without gaps."""
        segments: list[tuple[float, float, float]] = []
        at = 0.0
        for index in sorted(self._bins):
            known = self._bins[index]
            slack = _SLACK + _SLACK_SHARE * known.high
            begin, end = max(at, known.low - slack), known.high + slack
            segments += _gap(at, begin)
            segments.append((begin, end, known.weight / self._scale + _prior(begin, end)))
            at = end
        return segments + _gap(at, _LONGEST)


def _gap(begin: float, end: float) -> list[tuple[float, float, float]]:
    """What is between two bins, in parts that double in length: only the prior is there."""
    parts = []
    while begin < end:
        until = min(end, max(2 * begin, _SHORTEST))
        parts.append((begin, until, _prior(begin, until)))
        begin = until
    return parts


def _prior(begin: float, end: float) -> float:
    return _PRIOR * math.log(max(end, _SHORTEST) / max(begin, _SHORTEST)) / math.log(_LONGEST / _SHORTEST)


@dataclass
class _Level:
    idle_times: IdleTimes = field(default_factory=IdleTimes)
    idle_since: float = 0.0
    windows: tuple[Window, ...] = ()
    planned_at: int = 0  # how many idle times were known when `windows` was made
    warm: tuple[tuple[float, float], ...] = ()  # while idle: when containers are to be there or starting


class Forecast:
    """How many containers a function is going to need."""

    def __init__(self) -> None:
        self._levels: list[_Level] = []
        self._needed = 0
        self._known: tuple[int, float] = (0, 0.0)  # the last answer of `wanted`, and until when it holds

    def observe(self, now: float, needed: int, keep: float, worth: float, start: float) -> None:
        """So many containers are needed from now on.

        keep: seconds an idle container is kept at a level about which little is known. worth, start: see `IdleTimes.warm_windows`."""
        needed = min(needed, _LEVELS)
        if needed == self._needed:
            return
        for level in self._levels[self._needed : needed]:
            level.idle_times.add(now - level.idle_since)
        self._levels += [_Level() for _ in range(needed - len(self._levels))]
        for level in self._levels[needed : self._needed]:
            level.idle_since = now
            level.warm = tuple(
                (now + (max(0.0, window.begin - start) if window.begin > 0 else 0.0), now + window.end)
                for window in _plan(level, keep, worth, start)
            )
        self._needed = needed
        self._known = (0, now)

    def wanted(self, now: float) -> tuple[int, float | None]:
        """(containers to have, or to be starting, for demand to come; when that may change, None for never)."""
        count, until = self._known
        if now >= until:
            count, until = self._needed, _NEVER
            for level in self._levels[self._needed :]:
                for begin, end in level.warm:
                    if now < end:
                        count += now >= begin
                        until = min(until, begin if now < begin else end)
                        break
            self._known = (count, until)
        return count, (None if until == _NEVER else until)


def _plan(level: _Level, keep: float, worth: float, start: float) -> tuple[Window, ...]:
    known = level.idle_times.count
    if known < _ENOUGH:
        return (Window(0.0, keep),)
    if known - level.planned_at > min(known, 400) // 5 or not level.planned_at:
        level.windows = level.idle_times.warm_windows(worth, start)
        level.planned_at = known
    return level.windows


def _windows(
    segments: list[tuple[float, float, float]], choices: list[tuple[bool, bool]], is_on: bool
) -> tuple[Window, ...]:
    """Walks the choices back from the end."""
    windows: list[Window] = []
    for (begin, end, _), (from_on, from_off) in zip(reversed(segments), reversed(choices), strict=True):
        if is_on:
            if windows and windows[-1].begin == end:
                windows[-1] = Window(begin, windows[-1].end)
            else:
                windows.append(Window(begin, end))
            is_on = from_on
        else:
            is_on = not from_off
    return tuple(reversed(windows))
