"""Replacing containers."""

from __future__ import annotations

from stoker.core.books import PooledInput, PoolSettings
from stoker.core.pool import Pool
from stoker.core.rollout import Rollout


def a_pool(*, busy: bool) -> Pool:
    """Two containers of the old definition: one is ready, one starts."""
    pool = Pool(PoolSettings())
    pool.launch(0.0, "ready", "old")
    pool.launch(0.0, "starting", "old")
    if busy:
        pool.add(1.0, [PooledInput("in", "")])
    pool.poll(1.0, "ready", 1)
    return pool


def test_nobody_waits_for_an_idle_function_so_it_is_replaced_at_once() -> None:
    rollout = Rollout()
    assert rollout.begin(5.0, a_pool(busy=False), "new") == ["ready", "starting"]
    assert not rollout.under_way and rollout.starts(Pool(PoolSettings()), "new", 0) == 0


def test_a_function_in_use_is_served_until_the_new_version_is_up() -> None:
    rollout, pool = Rollout(), a_pool(busy=True)
    assert rollout.begin(1.5, pool, "new") == ["starting"]
    pool.remove(2.0, "starting", "")
    assert rollout.under_way and rollout.starts(pool, "new", 0) == 1
    pool.launch(2.0, "fresh", "new")
    assert rollout.starts(pool, "new", 0) == 0, "one is under way"
    pool.remove(3.0, "fresh", "")
    assert rollout.starts(pool, "new", 0) == 1, "it did not come up"
    assert rollout.end() == ["ready"] and not rollout.under_way


def test_between_two_calls_a_function_is_in_use() -> None:
    for now, stays in ((2.9, True), (3.1, False)):
        rollout, pool = Rollout(), a_pool(busy=True)
        pool.succeed(2.0, "ready", "in")
        rollout.begin(now, pool, "new")
        assert rollout.under_way is stays


def test_it_is_over_when_the_old_ones_are_gone() -> None:
    rollout, pool = Rollout(), a_pool(busy=True)
    rollout.begin(1.5, pool, "new")
    pool.remove(2.0, "ready", "")
    assert rollout.starts(pool, "new", 0) == 0 and not rollout.under_way
