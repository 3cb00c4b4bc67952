"""Books of a pool that do not agree are found, whatever is wrong in them; and nothing else is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import pytest

from stoker.core.actions import Deliver
from stoker.core.books import ContainerState, PooledInput, PoolSettings
from stoker.core.checked_pool import READS, CheckedPool
from stoker.core.invariants import BrokenInvariant
from stoker.core.pool import Pool
from stoker.core.retries import RetryPolicy


def busy_pool() -> Pool:
    """`run` runs in `ta-1`, `wait-1` and `wait-2` wait, `late` and `later` wait for their retries, `gone` was cancelled while it ran in `ta-2`;
    `ta-3` starts."""
    settings = PoolSettings(
        retry=RetryPolicy(3, initial_delay=5.0, backoff_coefficient=2.0), max_inputs_per_container=5
    )
    pool = Pool(settings)
    for container_id in ("ta-1", "ta-2", "ta-3"):
        pool.launch(0.0, container_id, "de")
    pool.add(0.0, [PooledInput(name, "fc") for name in ("late", "later", "run", "gone", "wait-1", "wait-2")])
    for now in (1.0, 2.0):
        pool.poll(now, "ta-1", 1)
        pool.fail(now, "ta-1", "late" if now == 1.0 else "later")
    pool.poll(3.0, "ta-1", 1)
    pool.poll(3.0, "ta-2", 1)
    pool.cancel(3.0, ["gone"])
    pool.poll(3.0, "ta-2", 1)
    pool.validate()
    return pool


def _cut(pool: Pool) -> None:
    """The first of those planned is not the earliest."""
    pool._delayed.reverse()


def _settings(**changes: int) -> Callable[[Pool], None]:
    def change(pool: Pool) -> None:
        pool.settings = replace(pool.settings, **changes)  # type: ignore[arg-type]

    return change


def _set(container_id: str, name: str, value: object) -> Callable[[Pool], None]:
    return lambda pool: setattr(pool.containers[container_id], name, value)


HARMS: dict[str, tuple[Callable[[Pool], object], str]] = {
    "lost": (lambda pool: pool.waiting.pop("wait-1"), "wait-1 is nowhere"),
    "lost while it runs": (lambda pool: pool._where.pop("run"), "run, ta-1 is run where the index does not say so"),
    "lost by its container": (lambda pool: pool.containers["ta-1"].running.pop("run"), "run is nowhere"),
    "waits and runs": (lambda pool: pool.waiting.update(run=None), "run is in 2 places"),
    "waits and is delayed": (lambda pool: pool.waiting.update(late=None), "late is in 2 places"),
    "delayed twice": (lambda pool: pool._delayed.append((99.0, "late")), "late is in 2 places"),
    "runs twice": (lambda pool: pool.containers["ta-2"].running.update(run=1.0), "run is in 2 places"),
    "ended and waits": (lambda pool: pool.inputs.pop("wait-2"), "wait-2 waits and has ended"),
    "cancelled, runs and waits": (lambda pool: pool.waiting.update(gone=None), "gone is in 2 places"),
    "by another's name": (lambda pool: setattr(pool.inputs["run"], "id", "x"), "run, x are one input"),
    "planned in disorder": (_cut, "late is planned before what is taken for the first"),
    "failed too seldom": (lambda pool: setattr(pool.inputs["late"], "attempts", 0), "late has 1 failures"),
    "more than may run": (_settings(max_concurrent_inputs=0), "ta-1 runs 1 inputs and may run 0"),
    "more than may be given": (_settings(max_inputs_per_container=2), "ta-1 got 3 inputs and may get 2"),
    "fewer given than run": (_set("ta-1", "served", 0), "ta-1 runs 1 inputs and got 0"),
    "asks and drains": (_set("ta-2", "state", ContainerState.DRAINING), "ta-2 asks for inputs and is draining"),
    "gave before it is up": (_set("ta-1", "state", ContainerState.STARTING), "ta-1 runs inputs before it is up"),
    "waits for less than nothing": (
        lambda pool: pool.containers["ta-1"].waits.update(run=-1),
        "ta-1 waits for less than nothing",
    ),
    "asks in vain": (_settings(max_concurrent_inputs=2), "ta-2 ask in vain, though 2 inputs wait"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_wrong_is_found_and_told_with_its_story(harm: str) -> None:
    pool = busy_pool()
    do, words = HARMS[harm]
    do(pool)
    with pytest.raises(BrokenInvariant) as broken:
        pool.validate()
    assert any(violation.startswith(words) for violation in broken.value.violations), broken.value.violations
    assert broken.value.story


def test_one_fault_that_shows_in_thousands_of_inputs_is_told_in_few_words() -> None:
    pool = Pool(PoolSettings())
    pool.add(0.0, [PooledInput(f"in-{n}", "fc") for n in range(5_000)])
    pool.waiting.clear()
    with pytest.raises(BrokenInvariant) as broken:
        pool.validate()
    assert len(broken.value.violations) == 10 and len(str(broken.value)) < 5_000


def test_a_deployment_with_lower_limits_breaks_nothing() -> None:
    pool = CheckedPool(PoolSettings(max_concurrent_inputs=3))
    pool.launch(0.0, "ta-1", "de")
    for name in ("one", "two", "three", "four"):
        pool.poll(0.0, "ta-1", 1)
        pool.add(0.0, [PooledInput(name, "fc")])
    pool.redefine(1.0, PoolSettings(max_concurrent_inputs=1, max_inputs_per_container=1))
    pool.succeed(2.0, "ta-1", "one")
    pool.redefine(3.0, PoolSettings(max_concurrent_inputs=1))
    assert list(pool.waiting) == ["four"]


def test_a_deployment_with_higher_limits_is_used_at_once() -> None:
    pool = CheckedPool(PoolSettings(batch_max_size=4, batch_linger=100.0))
    pool.launch(0.0, "ta-1", "de")
    pool.poll(0.0, "ta-1", 4)
    assert pool.add(0.0, [PooledInput("one", "fc")]) == []
    assert pool.redefine(1.0, PoolSettings()) == [Deliver("ta-1", (("one", 0),))]


def test_a_checked_pool_looks_after_every_event() -> None:
    public = {name for name in dir(Pool) if not name.startswith("_")}
    assert public >= READS
    for name in public - READS:
        assert inspect.unwrap(getattr(CheckedPool, name)) is getattr(Pool, name)
        assert getattr(CheckedPool, name) is not getattr(Pool, name)
    pool = CheckedPool(PoolSettings())
    pool.add(0.0, [PooledInput("one", "fc")])
    pool.waiting.clear()
    with pytest.raises(BrokenInvariant, match="one is nowhere"):
        pool.unpoll("ta-1")


def test_a_fault_is_told_once() -> None:
    told: list[BrokenInvariant] = []
    pool = CheckedPool(PoolSettings(), told.append)
    pool.add(0.0, [PooledInput("one", "fc")])
    pool.waiting.clear()
    for _ in range(5):
        pool.tick(1.0)
    assert len(told) == 1


def test_the_work_per_event_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(Pool, "validate", lambda pool: looks.append(len(pool.inputs)))
    pool = CheckedPool(PoolSettings())
    for number in range(0, 20_000, 50):
        pool.add(0.0, [PooledInput(f"in-{number + n}", "fc") for n in range(50)])
    assert sum(looks) <= 400 * 200 + 20_000 and looks[:3] == [50, 100, 150] and looks[-1] > 10_000
