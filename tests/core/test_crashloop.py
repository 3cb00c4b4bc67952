"""Failed starts slow down, and end sooner where somebody waits."""

from __future__ import annotations

from stoker.core.crashloop import IMPATIENCE, PATIENCE, CrashLoop


def test_starts_are_tried_ever_more_slowly_up_to_a_minute() -> None:
    loop = CrashLoop()
    delays = []
    for _ in range(10):
        loop.failed(100.0, killed=False)
        delays.append(loop.not_before - 100.0)
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    loop.succeeded()
    loop.failed(100.0, killed=False)
    assert loop.not_before == 100.5


def test_a_kill_from_outside_does_not_slow_the_next_start() -> None:
    loop = CrashLoop()
    for _ in range(10):
        loop.failed(0.0, killed=True)
    assert loop.not_before == 0.5


def test_a_deployed_function_gets_more_patience() -> None:
    loop = CrashLoop(failures=IMPATIENCE)
    assert loop.hopeless(deployed=False) and not loop.hopeless(deployed=True)
    assert CrashLoop(failures=PATIENCE).hopeless(deployed=True)
