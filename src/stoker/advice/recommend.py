"""From measurements to settings. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stoker.advice.measure import Measurement

_ENOUGH = 0.9  # of the best throughput; what lies beyond costs latency for little
_HEADROOM = 1.28  # of target_inputs: what a container takes while another one starts (32 for 25)


@dataclass(frozen=True)
class Choice:
    """The setting to use. `limited` says that the wish for latency could not be met, or was what decided."""

    measurement: Measurement
    options: dict[str, int]
    reason: str


def choose(measurements: Sequence[Measurement], latency: float | None = None) -> Choice | None:
    """The smallest setting with nearly the best throughput under a p95 latency (seconds); None when every setting failed."""
    sound = [m for m in measurements if not m.failures and m.throughput > 0]
    if not sound:
        return None
    quick = [m for m in sound if latency is None or m.p95 <= latency]
    if not quick:
        best = min(sound, key=lambda m: m.p95)
        return Choice(best, options(best), f"no setting has a p95 of {latency:g} s; this one comes nearest")
    most = max(m.throughput for m in quick)
    best = min((m for m in quick if m.throughput >= _ENOUGH * most), key=lambda m: m.setting.size)
    reason = "the smallest with nearly the most throughput"
    if len(quick) < len(sound):
        reason += f" of those with a p95 of at most {latency:g} s"
    largest = max(measurements, key=lambda m: m.setting.size)
    if largest is best and largest.setting.size > 1:
        reason += f", and the largest that was tried: --max-size {largest.setting.size * 4} tries more"
    return Choice(best, options(best), reason)


def options(measurement: Measurement) -> dict[str, int]:
    """What to write into the decorators."""
    setting = measurement.setting
    if setting.kind == "batch":
        return {"max_batch_size": setting.size, "wait_ms": setting.wait_ms}
    if setting.size == 1:
        return {"max_inputs": 1}
    return {"max_inputs": math.ceil(setting.size * _HEADROOM), "target_inputs": setting.size}


def cost_of_1000(throughput: float, price: float) -> float:
    """What 1,000 inputs cost on a full container, at a price for a container hour."""
    return 1000 / throughput / 3600 * price if throughput > 0 else math.inf
