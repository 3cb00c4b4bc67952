"""Made-up traffic. The same seed makes the same traffic."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Iterator

from stoker.simulation.trace import Trace, TracedFunction

_DAY = 86_400.0


def poisson(seconds: float, functions: int, seed: int, *, rate: float = 1 / 60) -> Trace:
    """Arrivals that know nothing of each other, `rate` a second for each function."""
    return _trace("poisson", seconds, functions, seed, lambda chance: _poisson(chance, seconds, rate))


def bursts(seconds: float, functions: int, seed: int, *, every: float = 900.0, size: float = 12.0) -> Trace:
    """About `size` inputs within a few seconds, about `every` seconds."""
    return _trace("bursts", seconds, functions, seed, lambda chance: _bursts(chance, seconds, every, size))


def diurnal(seconds: float, functions: int, seed: int, *, rate: float = 1 / 30) -> Trace:
    """Arrivals whose rate follows the day: nearly none by night, twice the mean at noon."""
    return _trace("diurnal", seconds, functions, seed, lambda chance: _diurnal(chance, seconds, rate))


def azure(seconds: float, functions: int, seed: int, *, most_per_day: float = 5_000.0) -> Trace:
    """Shaped like the functions of Azure in Shahrad et al. (USENIX ATC 2020), as far as the paper says how:

    rates over eight magnitudes, of which 45% are below one an hour and 81% below one a minute (figure 5; `most_per_day` cuts the top off, for
    it would be nearly all of the trace); a third are timers, a third come in bursts, a third are requests that follow the day (figures 3, 6);
    run times are log-normal, median 0.7 s (figure 7). Start times are not in the paper: log-normal, median 3 s.
    """

    def arrivals(chance: random.Random) -> Iterator[float]:
        per_day = _azure_rate(chance, most_per_day)
        kind = chance.random()
        if kind < 0.33:
            period = min(
                (60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0), key=_near(_DAY / per_day)
            )
            return _timer(chance, seconds, period)
        if kind < 0.66:
            size = 1 + chance.expovariate(1 / 6)
            return _bursts(chance, seconds, size * _DAY / per_day, size)
        return _diurnal(chance, seconds, per_day / _DAY)

    return _trace("azure", seconds, functions, seed, arrivals)


GENERATORS: dict[str, Callable[[float, int, int], Trace]] = {
    "poisson": poisson,
    "bursts": bursts,
    "diurnal": diurnal,
    "azure": azure,
}


def _trace(
    kind: str, seconds: float, functions: int, seed: int, arrivals: Callable[[random.Random], Iterator[float]]
) -> Trace:
    made = []
    for number in range(functions):
        chance = random.Random(f"{seed}/{kind}/{number}")
        start = min(max(chance.lognormvariate(math.log(3.0), 0.8), 0.3), 60.0)
        # Every function has a run time of its own, and its inputs differ a little.
        typical = min(chance.lognormvariate(-0.38, 2.0), 120.0)
        times = tuple(sorted(t for t in arrivals(chance) if t < seconds))
        runs = tuple(min(typical * chance.lognormvariate(0.0, 0.4), 300.0) for _ in times)
        if times:
            made.append(TracedFunction(f"{kind}-{number}", times, runs, start))
    return Trace(tuple(made), seconds)


def _azure_rate(chance: random.Random, most: float) -> float:
    """Inputs a day, by the quantiles of the paper."""
    shares = (0.0, 0.45, 0.81, 1.0)
    rates = (1.0, 24.0, 1440.0, max(most, 1440.0))
    share = chance.random()
    i = min(bisect.bisect_right(shares, share), 3)
    within = (share - shares[i - 1]) / (shares[i] - shares[i - 1])
    return math.exp(math.log(rates[i - 1]) + within * (math.log(rates[i]) - math.log(rates[i - 1])))


def _near(wanted: float) -> Callable[[float], float]:
    return lambda value: abs(math.log(value / wanted))


def _poisson(chance: random.Random, seconds: float, rate: float) -> Iterator[float]:
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


def _timer(chance: random.Random, seconds: float, period: float) -> Iterator[float]:
    at = chance.uniform(0.0, period)
    while at < seconds:
        yield at + abs(chance.gauss(0.0, 0.2))
        at += period


def _bursts(chance: random.Random, seconds: float, every: float, size: float) -> Iterator[float]:
    for begin in _poisson(chance, seconds, 1 / every):
        at = begin
        for _ in range(1 + int(chance.expovariate(1 / max(size - 1, 1e-9)))):
            yield at
            at += chance.expovariate(1 / 1.5)


def _diurnal(chance: random.Random, seconds: float, rate: float) -> Iterator[float]:
    """Thinned: the rate goes from 0 at midnight to twice the mean at noon."""
    for at in _poisson(chance, seconds, 2 * rate):
        if chance.random() < (1 - math.cos(2 * math.pi * at / _DAY)) / 2:
            yield at
