"""Policies side by side on one trace, each with its number set so that it costs as many container-seconds as the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stoker.simulation.policies import Contender, contenders, oracle
from stoker.simulation.replay import Outcome, replay
from stoker.simulation.trace import Trace

_CLOSE = 0.01  # of the container-seconds wanted, where the search for a number ends
_STEPS = 14


@dataclass(frozen=True)
class Summary:
    """`number` is what the policy's knob was set to; waits and quantiles in seconds over all inputs of all functions."""

    policy: str
    knob: str
    number: float | None
    inputs: int
    cold: int
    starts: int
    container_seconds: float
    mean: float
    p50: float
    p95: float
    p99: float
    p95_of_functions: float  # the mean over functions of each one's own p95


def compare(
    trace: Trace,
    window: float,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda policy: None,
) -> list[Summary]:
    """The predictive policy with this scaledown window, the others at its container-seconds, and the oracle."""
    ours, *others = contenders()
    on_progress(ours.name)
    reference = run(trace, ours, window, seed)
    summaries = [reference]
    for contender in others:
        on_progress(contender.name)
        summaries.append(_at_cost(trace, contender, reference.container_seconds, seed))
    outcomes = [oracle(function, trace.seconds) for function in trace.functions]
    return [*summaries, _summary("oracle", "", None, outcomes)]


def run(trace: Trace, contender: Contender, number: float, seed: int = 0) -> Summary:
    outcomes = [replay(function, contender.make(function, number), trace.seconds, seed) for function in trace.functions]
    return _summary(contender.name, contender.knob, number, outcomes)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; 0 for no values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _at_cost(trace: Trace, contender: Contender, wanted: float, seed: int) -> Summary:
    """Searches the contender's number by its container-seconds, which grow with it."""
    low, high = (math.log(x) for x in (contender.least, contender.most))
    best = below = run(trace, contender, contender.least, seed)
    if below.container_seconds >= wanted:
        return below
    guess = math.log(60.0)
    costs = [math.log(below.container_seconds), math.nan]
    for step in range(_STEPS):
        tried = run(trace, contender, math.exp(guess), seed)
        if abs(tried.container_seconds - wanted) < abs(best.container_seconds - wanted):
            best = tried
        if abs(best.container_seconds - wanted) <= _CLOSE * wanted:
            break
        if tried.container_seconds > wanted:
            high, costs[1] = guess, math.log(tried.container_seconds)
        else:
            low, costs[0] = guess, math.log(tried.container_seconds)
        # Between the two, nearer to the one that costs nearly as much as wanted.
        share = (
            0.5 if math.isnan(costs[1]) or step % 2 else (math.log(wanted) - costs[0]) / max(costs[1] - costs[0], 1e-9)
        )
        guess = low + (high - low) * min(max(share, 0.1), 0.9)
    return best


def _summary(policy: str, knob: str, number: float | None, outcomes: Sequence[Outcome]) -> Summary:
    waits = sorted(wait for outcome in outcomes for wait in outcome.waits)
    own = [quantile(sorted(outcome.waits), 0.95) for outcome in outcomes if outcome.waits]
    return Summary(
        policy=policy,
        knob=knob,
        number=number,
        inputs=len(waits),
        cold=sum(outcome.cold for outcome in outcomes),
        starts=sum(outcome.starts for outcome in outcomes),
        container_seconds=sum(outcome.container_seconds for outcome in outcomes),
        mean=sum(waits) / len(waits) if waits else 0.0,
        p50=quantile(waits, 0.50),
        p95=quantile(waits, 0.95),
        p99=quantile(waits, 0.99),
        p95_of_functions=sum(own) / len(own) if own else 0.0,
    )
