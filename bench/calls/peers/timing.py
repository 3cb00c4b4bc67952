"""What all peers are timed with."""

import statistics
import time
from collections.abc import Callable


def timed(count: int, work: Callable[[], object]) -> dict[str, float]:
    """The rate of `work`, which makes `count` calls."""
    start = time.perf_counter()
    work()
    return {"per_second": count / (time.perf_counter() - start)}


def sequential(count: int, call: Callable[[int], int]) -> dict[str, float]:
    """One call after the other, each a number that must come back."""
    for number in range(50):
        assert call(number) == number
    times = []
    for number in range(count):
        start = time.perf_counter()
        assert call(number) == number
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    return {
        "per_second": 1e3 * count / sum(times),
        "p50_ms": statistics.median(times),
        "p99_ms": times[int(count * 0.99)],
    }
