"""How many containers a function should have. Pure: a view of the pool in, a number out."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_SCALEDOWN_WINDOW = 60.0
ASSUMED_START = 2.0  # seconds, before any container of the function has started


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
    """The demand and the supply of one function at one moment."""

    backlog: int  # inputs nobody runs
    running: int
    ready: int  # containers that take inputs
    starting: int
    mean_runtime: float | None = None  # seconds of one input, None before the first has ended
    mean_start: float | None = None  # seconds from launch to the first poll


def desired_containers(view: PoolView, settings: ScalingSettings, parallel_starts: int) -> int:
    """The number of containers (starting ones included) the function should have now.

    `parallel_starts` bounds how many start at once: a burst of tiny inputs must not launch a container for each, and on a machine whose
    processors are busy (0) another container makes everything slower. The first container of a function is always worth its start.
    """
    demand = view.backlog + view.running
    wanted = math.ceil(demand / max(1, settings.target_inputs))
    if view.backlog and wanted > view.ready + view.starting:
        wanted = min(wanted, view.ready + view.starting + _worthwhile(view, settings, parallel_starts))
    active = demand > 0
    wanted += settings.buffer_containers if active else 0
    wanted = max(wanted, settings.min_containers)
    if settings.max_containers is not None:
        wanted = min(wanted, max(settings.max_containers, 0))
    return wanted


def _worthwhile(view: PoolView, settings: ScalingSettings, parallel_starts: int) -> int:
    """How many more containers would be up before the present ones have worked off the backlog."""
    have = view.ready + view.starting
    if have == 0:
        return max(1, min(parallel_starts, math.ceil(view.backlog / max(1, settings.target_inputs))))
    if view.mean_runtime is None:
        return max(0, parallel_starts - view.starting)
    start = view.mean_start or ASSUMED_START
    slots = have * max(1, settings.target_inputs)
    drained_in = view.backlog * view.mean_runtime / slots
    if drained_in <= start:
        return 0
    return max(0, parallel_starts - view.starting)
