"""What is learnt from idle times."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.prediction import Forecast, IdleTimes


def learnt(*times: float) -> IdleTimes:
    idle = IdleTimes()
    for seconds in times:
        idle.add(seconds)
    return idle


@settings(max_examples=100)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0.1, 5_000), st.floats(0, 60))
def test_windows_are_in_order_and_apart(times: list[float], worth: float, start: float) -> None:
    windows = learnt(*times).warm_windows(worth, start)
    edges = [edge for window in windows for edge in (window.begin, window.end)]
    assert edges == sorted(edges) and len(set(edges)) == len(edges)
    assert all(edge >= 0 for edge in edges)


def test_a_regular_caller_is_met_just_in_time() -> None:
    windows = learnt(*[600.0 + i % 3 for i in range(20)]).warm_windows(60.0, 3.0)
    (window,) = [w for w in windows if w.end > 30]
    assert 580 < window.begin < 600 and 602 < window.end < 630


def test_two_habits_make_two_windows() -> None:
    times = [2.0, 2.1, 1.9, 3600.0] * 10
    windows = learnt(*times).warm_windows(120.0, 3.0)
    assert windows[0].begin == 0 and 2.1 < windows[0].end < 60
    assert any(3400 < w.begin < 3600 < w.end < 3800 for w in windows[1:])


def test_who_comes_rarely_and_at_random_is_not_waited_for() -> None:
    chance = random.Random(1)
    rare = learnt(*(chance.expovariate(1 / 7_200) for _ in range(100)))
    assert sum(w.end - w.begin for w in rare.warm_windows(60.0, 3.0)) < 60
    often = learnt(*(chance.expovariate(1 / 10) for _ in range(100)))
    first = often.warm_windows(60.0, 3.0)[0]
    assert first.begin == 0 and first.end > 15


def test_old_habits_fade() -> None:
    idle = learnt(*[600.0] * 100, *[20.0] * 900)
    assert all(w.end < 600 for w in idle.warm_windows(30.0, 3.0))


def test_what_is_not_known_is_kept_for_the_usual_time() -> None:
    forecast = Forecast()
    forecast.observe(100.0, 2, 60.0, 60.0, 2.0)
    assert forecast.wanted(100.0) == (2, None)
    forecast.observe(110.0, 0, 60.0, 60.0, 2.0)
    assert forecast.wanted(110.0) == (2, 170.0)
    assert forecast.wanted(169.9)[0] == 2
    assert forecast.wanted(170.0) == (0, None)


def test_each_level_of_demand_has_its_own_history() -> None:
    """One container is needed all the time, two more every ten minutes."""
    forecast = Forecast()
    now = 0.0
    for _ in range(30):
        forecast.observe(now, 3, 60.0, 60.0, 2.0)
        forecast.observe(now + 5, 1, 60.0, 60.0, 2.0)
        now += 600.0
    between = now - 300.0
    assert forecast.wanted(between)[0] == 1
    _, change = forecast.wanted(between)
    assert change is not None and now - 40 < change < now
    assert forecast.wanted(change)[0] == 3
