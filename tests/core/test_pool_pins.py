"""Inputs that must not run twice, and pools that spread their inputs."""

from __future__ import annotations

from stoker.core.actions import Deliver, Finish, Outcome
from stoker.core.books import PooledInput, PoolSettings
from stoker.core.pool import Pool
from stoker.core.retries import RetryPolicy


def _pool_running(settings: PoolSettings, *inputs: PooledInput) -> Pool:
    """A pool with one container `a` that runs `inputs`."""
    pool = Pool(settings)
    pool.launch(0.0, "a", "de")
    pool.add(0.0, inputs)
    for _ in inputs:
        pool.poll(0.0, "a", 1)
    assert pool.running == len(inputs)
    return pool


def test_a_pinned_input_ends_with_its_container() -> None:
    pool = _pool_running(PoolSettings(max_concurrent_inputs=2), PooledInput("seen", "fc"), PooledInput("unseen", "fc"))
    pool.pin("seen")
    pool.pin("unknown")
    assert pool.remove(1.0, "a", "It died.") == [Finish("seen", "fc", Outcome.LOST, "It died.")]
    assert list(pool.waiting) == ["unseen"]


def test_a_pinned_input_is_not_retried() -> None:
    pool = _pool_running(PoolSettings(retry=RetryPolicy(5)), PooledInput("seen", "fc"))
    pool.pin("seen")
    accepted, _ = pool.fail(1.0, "a", "seen")
    assert accepted
    assert not pool.inputs


def test_inputs_are_packed_or_spread() -> None:
    for spread, expected in ((False, "a"), (True, "b")):
        settings = PoolSettings(max_concurrent_inputs=5, spread=spread)
        pool = _pool_running(settings, PooledInput("one", "fc"))
        pool.launch(0.0, "b", "de")
        pool.poll(0.0, "a", 1)
        pool.poll(0.0, "b", 1)
        [action] = pool.add(1.0, [PooledInput("two", "fc")])
        assert isinstance(action, Deliver)
        assert action.container_id == expected


def test_an_input_is_taken_at_once_where_there_is_room() -> None:
    pool = Pool(PoolSettings(max_concurrent_inputs=1))
    assert pool.take(0.0, PooledInput("early", "")) is None
    pool.launch(0.0, "a", "de")
    assert pool.take(0.0, PooledInput("early", "")) is None  # it is still starting
    pool.poll(1.0, "a", 1)
    assert pool.take(1.0, PooledInput("first", "")) == "a"
    assert pool.take(1.0, PooledInput("second", "")) is None
    assert set(pool.inputs) == {"first"}
    # The poll is still open: who waits is served when the taken input ends, and nobody overtakes.
    assert pool.add(2.0, [PooledInput("waits", "fc")]) == []
    assert pool.succeed(3.0, "a", "first") == (True, [Deliver("a", (("waits", 0),))])


def test_the_room_of_a_cancelled_input_is_used_at_once() -> None:
    pool = _pool_running(PoolSettings(), PooledInput("cancelled", "fc"))
    pool.cancel(1.0, ["cancelled"])
    assert pool.poll(1.0, "a", 1) == []  # full until the container reports
    assert pool.add(1.0, [PooledInput("next", "fc")]) == []
    assert pool.succeed(2.0, "a", "cancelled") == (False, [Deliver("a", (("next", 0),))])
