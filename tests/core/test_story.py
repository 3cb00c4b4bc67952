"""What a pool tells of its inputs and containers, and how much of it is kept."""

from __future__ import annotations

from stoker.core.books import PooledInput, PoolSettings
from stoker.core.pool import Pool
from stoker.core.retries import RetryPolicy
from stoker.core.story import RECENT


def told(pool: Pool, *ids: str) -> list[str]:
    return [str(step) for step in pool.story(*ids)]


def with_container(settings: PoolSettings, container_id: str = "ta-1") -> Pool:
    pool = Pool(settings)
    pool.launch(0.0, container_id, "de")
    pool.poll(1.0, container_id, 1)
    return pool


def test_the_life_of_an_input_is_told_in_order() -> None:
    pool = with_container(PoolSettings(retry=RetryPolicy(1, initial_delay=2.0)))
    pool.add(2.0, [PooledInput("in-1", "fc"), PooledInput("in-2", "fc")])
    pool.give_back(3.0, "ta-1", ["in-1"])
    pool.poll(4.0, "ta-1", 1)
    pool.fail(5.0, "ta-1", "in-1")
    pool.cancel(6.0, ["in-2"])
    pool.tick(7.0)
    pool.poll(8.0, "ta-1", 1)
    pool.succeed(9.0, "ta-1", "in-1")
    pool.succeed(9.5, "ta-1", "in-1")
    assert told(pool, "in-1") == [
        "2.000 in-1 waits",
        "2.000 in-1 [ta-1] is delivered",
        "3.000 in-1 [ta-1] is given back: it did not arrive",
        "4.000 in-1 [ta-1] is delivered",
        "5.000 in-1 failed, and is to run again in 2 s",
        "7.000 in-1 waits again",
        "8.000 in-1 [ta-1] is delivered",
        "9.000 in-1 [ta-1] ends with a result",
        "9.500 in-1 [ta-1] is reported by one that does not run it",
    ]
    assert told(pool, "in-2") == ["2.000 in-2 waits", "6.000 in-2 ends: cancelled"]
    assert told(pool, "in-3") == []


def test_a_container_tells_what_it_ran() -> None:
    pool = with_container(PoolSettings(max_concurrent_inputs=2))
    pool.take(2.0, PooledInput("in-1", "fc"))
    pool.pin("in-1")
    pool.drain("ta-1")
    pool.remove(3.0, "ta-1", "It died." + " Why?" * 1000)
    steps = told(pool, "ta-1")
    assert [step.split(":")[0] for step in steps] == [
        "0.000 [ta-1] is launched",
        "1.000 [ta-1] is ready",
        "2.000 in-1 [ta-1] is delivered",
        "2.000 in-1 [ta-1] must not run again",
        "2.000 [ta-1] drains",
        "3.000 [ta-1] is gone",
        "3.000 in-1 [ta-1] is lost with its container (1 to blame)",
    ]
    assert max(map(len, steps)) < 300


def test_an_input_that_runs_too_long_is_told_of() -> None:
    pool = with_container(PoolSettings(timeout=10.0))
    pool.add(2.0, [PooledInput("in-1", "fc")])
    pool.tick(12.0)
    assert "12.000 in-1 [ta-1] ran longer than its timeout of 10 s." in told(pool, "in-1")
    assert told(pool, "in-1")[-1] == "12.000 in-1 ends: timeout"


def test_the_traffic_of_others_pushes_out_nothing_notable() -> None:
    pool = with_container(PoolSettings())
    pool.add(2.0, [PooledInput("bad", "fc")])
    pool.remove(3.0, "ta-1", "It died.")
    pool.cancel(4.0, ["bad"])
    pool.launch(5.0, "ta-2", "de")
    for number in range(2 * RECENT):
        pool.poll(6.0, "ta-2", 1)
        pool.add(6.0, [PooledInput(f"in-{number}", "fc")])
        pool.succeed(6.0, "ta-2", f"in-{number}")
    assert told(pool, "bad") == ["3.000 bad [ta-1] is lost with its container (1 to blame)"]
    assert len(pool.story(f"in-{2 * RECENT - 1}")) == 3


def test_what_is_kept_is_bounded() -> None:
    pool = with_container(PoolSettings())
    for number in range(3 * RECENT):
        pool.launch(2.0, f"ta-{number}", "de")
        pool.remove(2.0, f"ta-{number}", "It died.")
        pool.add(2.0, [PooledInput(f"in-{number}", "fc")])
    assert RECENT <= len(pool.story()) <= 2 * RECENT
    assert [step.at for step in pool.story()] == sorted(step.at for step in pool.story())
