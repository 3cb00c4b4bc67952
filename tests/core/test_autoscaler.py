"""How many containers the rule asks for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from stoker.core.autoscaler import PoolView, ScalingSettings, desired_containers


def view(
    backlog: int = 0,
    running: int = 0,
    ready: int = 0,
    starting: int = 0,
    runtime: float | None = None,
    start: float | None = None,
) -> PoolView:
    return PoolView(backlog, running, ready, starting, runtime, start)


@pytest.mark.parametrize(
    "seen, settings, slots, wanted",
    [
        (view(), ScalingSettings(), 2, 0),
        (view(), ScalingSettings(min_containers=2), 2, 2),
        (view(), ScalingSettings(buffer_containers=3), 2, 0),  # a buffer only while active
        (view(running=1, ready=1), ScalingSettings(buffer_containers=3), 2, 4),
        (view(backlog=1), ScalingSettings(), 0, 1),  # the first container is always worth it
        (view(backlog=1000), ScalingSettings(), 2, 2),
        (view(backlog=1000), ScalingSettings(max_containers=1), 2, 1),
        (
            view(backlog=10, running=1, ready=1, runtime=0.001, start=2.0),
            ScalingSettings(),
            2,
            1,
        ),  # done before another is up
        (view(backlog=10, running=1, ready=1, runtime=60.0, start=2.0), ScalingSettings(), 2, 3),
        (view(backlog=10, running=1, ready=1, runtime=60.0, start=2.0), ScalingSettings(), 0, 1),  # busy processors
        (view(backlog=32, running=25, ready=1, runtime=60.0), ScalingSettings(target_inputs=25), 2, 3),
        (view(running=3, ready=5), ScalingSettings(), 2, 3),
    ],
)
def test_the_rule(seen: PoolView, settings: ScalingSettings, slots: int, wanted: int) -> None:
    assert desired_containers(seen, settings, slots) == wanted


def test_busy_processors_hold_up_growth_the_longer_the_more_there_are() -> None:
    """The second container by a second, each further one by twice as long, and none by more than half a minute."""
    for have, pause in ((1, 1.0), (2, 2.0), (4, 8.0), (50, 30.0)):
        seen = view(backlog=100, running=have, ready=have, runtime=60.0)
        for waited, since_start, wanted in ((pause, pause, 1), (pause - 0.1, pause, 0), (pause, pause - 0.1, 0)):
            seen = replace(seen, waited=waited, since_start=since_start)
            assert desired_containers(seen, ScalingSettings(), 0) == have + wanted


def test_one_starts_at_a_time_while_processors_are_busy() -> None:
    seen = replace(view(backlog=9, ready=1, running=1, starting=1), waited=99.0, since_start=29.0, coming=(29.0,))
    assert desired_containers(seen, ScalingSettings(), 0) == 2
    seen = replace(seen, since_start=30.0, coming=(30.0,))
    assert desired_containers(seen, ScalingSettings(), 0) == 3, "but one that hangs holds up nobody"


def test_inputs_that_run_count_with_their_age() -> None:
    """One of two seconds is expected to end in time for what waits; not if it has run for three."""
    for age, wanted in ((0.0, 1), (1.5, 1), (1.9, 1), (3.0, 2), (45.0, 2), (math.inf, 2)):
        seen = replace(view(backlog=1, running=1, ready=1, runtime=2.0, start=2.0), ages=(age,))
        assert desired_containers(seen, ScalingSettings(), 2) == wanted
