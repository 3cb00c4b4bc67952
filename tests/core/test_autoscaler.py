"""How many containers the rule asks for."""

from __future__ import annotations

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
