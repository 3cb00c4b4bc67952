"""How many containers a function should have. Pure: a view of the pool in, a number out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_SCALEDOWN_WINDOW = 60.0
ASSUMED_START = 2.0  # seconds, before any container of the function has started
# An input that has waited for so many times the length of a start, and some seconds, is not left to estimates any more; nor after a minute.
_PATIENCE, _MARGIN, LONGEST_PATIENCE = 2.0, 1.0, 60.0
# Seconds for which busy processors hold up the second container, doubled with each further one, up to the second.
_BUSY_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_LONG_START = 30.0  # seconds
_TINY = 1e-6  # seconds


@dataclass(frozen=True)
class ScalingSettings:
    """What the user asks for; None stands for "not said"."""

    min_containers: int = 0
    max_containers: int | None = None
    buffer_containers: int = 0
    scaledown_window: float = DEFAULT_SCALEDOWN_WINDOW  # seconds
    scaleup_window: float = 0.0  # seconds for which more must be needed before a container is added to those there are
    target_inputs: float = 1  # per container
    predictive: bool = False  # whether containers come and go by what the function's history lets expect


@dataclass(frozen=True)
class PoolView:
    """The demand and the supply of one function at one moment. Supply are the containers that take inputs, or will when they are up; demand is
    what waits and what those run. What other containers run (one that drains, one whose inputs wait for other calls) is neither."""

    backlog: int  # inputs that wait for a container
    running: int  # places that inputs take in the supply: all of a container that can take no more, however few it runs
    ready: int  # containers that take inputs
    starting: int
    mean_runtime: float | None = None  # seconds of one input, None before the first has ended
    usual_start: float | None = None  # seconds from launch to the first poll
    ages: Sequence[float] = ()  # seconds for which places, or some of many, have been taken; infinite: nobody can tell
    coming: Sequence[float] = ()  # seconds since the launch of the starting ones
    waited: float = 0.0  # seconds for which the first of the backlog has waited
    since_start: float = 0.0  # seconds since the last launch of a container
    aside: int = 0  # containers that are there, but no supply
    elsewhere: int = 0  # inputs that run in containers that are no supply


def desired_containers(view: PoolView, settings: ScalingSettings, parallel_starts: int) -> int:
    """The number of containers (starting ones and those aside included) the function should have now.

    `parallel_starts` bounds how many start at once: a burst of tiny inputs must not launch a container for each, and on a machine whose
    processors are busy (0) another container makes everything slower. The first container that takes inputs is always worth its start.
    """
    demand = view.backlog + view.running
    wanted = math.ceil(demand / max(1, settings.target_inputs))
    if view.backlog and wanted > view.ready + view.starting:
        wanted = min(wanted, view.ready + view.starting + _worthwhile(view, settings, parallel_starts))
    wanted += view.aside
    active = demand + view.elsewhere > 0
    wanted += settings.buffer_containers if active else 0
    wanted = max(wanted, settings.min_containers)
    if settings.max_containers is not None:
        wanted = min(wanted, max(settings.max_containers, 0))
    return wanted


def _worthwhile(view: PoolView, settings: ScalingSettings, parallel_starts: int) -> int:
    """How many containers to add: none when those there are will have begun the whole backlog before another would be up."""
    target = max(1, settings.target_inputs)
    if view.ready + view.starting == 0:
        return max(1, min(parallel_starts, math.ceil(view.backlog / target)))
    start = view.usual_start or ASSUMED_START
    # What was expected may not come true, so that an estimate alone could leave an input waiting for ever.
    patience = min(_PATIENCE * start + _MARGIN, LONGEST_PATIENCE)
    overdue = view.waited > patience and view.backlog > view.starting * target
    if overdue or view.backlog > _begun_within(start, view, target):
        return max(0, _startable(view, parallel_starts))
    return 0


def _begun_within(seconds: float, view: PoolView, target: float) -> float:
    """How many inputs of the backlog the present containers can be expected to begin within so many seconds."""
    mean = view.mean_runtime

    def begun(left: float) -> float:
        """In a place that is free for the last `left` of the seconds."""
        return 0.0 if left < 0 else 1.0 + (left / max(mean, _TINY) if mean is not None else 0.0)

    def rest(age: float) -> float:
        """How long an input runs on: as long as inputs do, and what ran longer already, as long again."""
        return max(mean - age, age) if mean is not None else math.inf

    ages = view.ages or (0.0,)
    coming = [*view.coming, *[0.0] * (view.starting - len(view.coming))]
    free = max(0.0, view.ready * target - view.running)
    return (
        free * begun(seconds)
        + view.running * sum(begun(seconds - rest(age)) for age in ages) / len(ages)
        + target * sum(begun(min(since, seconds)) for since in coming)
    )


def _startable(view: PoolView, parallel_starts: int) -> int:
    """How many containers may begin to start now, beside those that start. One that is long in starting holds up nobody."""
    if parallel_starts == 0:
        # The processors are busy: one at a time, and the later the more there are, for these may be what keeps them busy.
        have = view.ready + view.starting
        pause = min(_BUSY_PAUSE * 2 ** min(have - 1, 10), _LONGEST_PAUSE)
        if min(view.waited, view.since_start) < pause:
            return 0
    slow = sum(since >= _LONG_START for since in view.coming)
    return max(1, parallel_starts) - (view.starting - slow)
