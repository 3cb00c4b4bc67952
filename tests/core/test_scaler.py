"""When containers start and stop: whatever happens, nobody waits for ever and no work is thrown away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.autoscaler import ScalingSettings
from stoker.core.books import ContainerState, PooledInput, PoolSettings
from stoker.core.pool import Pool
from stoker.core.retries import RetryPolicy
from stoker.core.rollout import Rollout
from stoker.core.scaler import Decision, Scaler
from stoker.simulation.replay import replay
from stoker.simulation.trace import TracedFunction

SETTINGS = st.builds(
    ScalingSettings,
    min_containers=st.integers(0, 3),
    max_containers=st.one_of(st.none(), st.integers(1, 4)),
    buffer_containers=st.integers(0, 2),
    scaledown_window=st.floats(0.5, 300),
    scaleup_window=st.sampled_from([0.0, 0.0, 5.0]),
    target_inputs=st.sampled_from([1, 2]),
    predictive=st.booleans(),
)


class Checked:
    """The server's policy, each of whose decisions is checked."""

    def __init__(self, scaling: ScalingSettings, slots: int) -> None:
        self.scaling = scaling
        self.slots = slots
        self.scaler = Scaler()
        self.started = self.scaler.started
        self.ran = self.scaler.ran

    def decide(self, now: float, pool: Pool) -> Decision:
        decision = self.scaler.decide(now, pool, self.scaling, self.slots)
        check(decision, pool, self.scaling)
        assert decision.look_at is None or decision.look_at > now - 1e-6
        return decision


def check(decision: Decision, pool: Pool, scaling: ScalingSettings) -> None:
    live = [c for c in pool.containers.values() if c.state is not ContainerState.DRAINING]
    sent = [c for c in live if c.id in decision.drain]
    assert len(sent) == len(decision.drain) == len(set(decision.drain)), "only containers that are there"
    kept = [c for c in live if c not in sent]
    if any(c.running for c in sent):
        assert all(c.running for c in kept), "a busy container goes only when all others are busy"
    if any(not c.ready_at for c in sent):
        assert all(c.running or not c.ready_at for c in kept), "a starting one only when none is idle"
    if scaling.max_containers is not None:
        assert len(kept) + decision.start <= max(scaling.max_containers, 0)
    if any(c.running or not c.ready_at for c in sent):
        assert scaling.max_containers is not None and len(kept) == scaling.max_containers
    assert not (decision.start and decision.drain)


@settings(max_examples=150)
@given(
    scaling=SETTINGS,
    inputs=st.lists(st.tuples(st.floats(0, 2_000), st.floats(0, 60)), min_size=1, max_size=40),
    start=st.floats(0, 30),
    concurrency=st.integers(1, 3),
    slots=st.integers(0, 4),
)
def test_every_input_is_run_and_no_decision_is_foolish(
    scaling: ScalingSettings, inputs: list[tuple[float, float]], start: float, concurrency: int, slots: int
) -> None:
    inputs.sort()
    arrivals, runs = zip(*inputs, strict=True)
    function = TracedFunction("f", arrivals, runs, start, concurrency)
    outcome = replay(function, Checked(scaling, slots), 2_000.0)
    assert len(outcome.waits) == len(inputs)


@settings(max_examples=150)
@given(
    before=SETTINGS,
    after=SETTINGS,
    idle=st.integers(0, 4),
    starting=st.integers(0, 3),
    busy=st.integers(0, 4),
    backlog=st.integers(0, 3),
)
def test_new_settings_take_hold_at_once(
    before: ScalingSettings, after: ScalingSettings, idle: int, starting: int, busy: int, backlog: int
) -> None:
    scaler, pool = Scaler(), a_pool(idle, starting, busy, backlog)
    scaler.decide(10.0, pool, before, 2)
    check(scaler.decide(11.0, pool, after, 2), pool, after)


def a_pool(idle: int = 0, starting: int = 0, busy: int = 0, backlog: int = 0) -> Pool:
    """At 10 s; its containers came up at 1 s."""
    pool = Pool(PoolSettings())
    for number in range(busy):
        pool.launch(0.0, f"busy-{number}", "")
        pool.add(1.0, [PooledInput(f"run-{number}", "")])
        pool.poll(1.0, f"busy-{number}", 1)
    for number in range(idle):
        pool.launch(0.0, f"idle-{number}", "")
        pool.poll(1.0 + number, f"idle-{number}", 1)
        if backlog:
            pool.unpoll(f"idle-{number}")  # between two polls
    for number in range(starting):
        pool.launch(9.0, f"starting-{number}", "")
    pool.add(10.0, [PooledInput(f"wait-{number}", "") for number in range(backlog)])
    return pool


def test_fewer_at_most_sends_idle_ones_first_then_starting_then_busy() -> None:
    pool = a_pool(idle=2, starting=1, busy=2)
    for most, gone in ((3, ["idle"] * 2), (2, ["idle"] * 2 + ["starting"]), (1, ["idle"] * 2 + ["starting", "busy"])):
        decision = Scaler().decide(10.0, pool, ScalingSettings(max_containers=most, scaledown_window=300), 2)
        assert [name.split("-")[0] for name in decision.drain] == gone


def test_the_longest_idle_goes_first_after_its_window() -> None:
    pool, scaler, scaling = a_pool(idle=3), Scaler(), ScalingSettings(scaledown_window=20, min_containers=1)
    assert scaler.decide(20.9, pool, scaling, 2) == Decision(0, (), 21.0)
    assert scaler.decide(21.0, pool, scaling, 2) == Decision(0, ("idle-0",), 22.0)
    for number in (0, 1):
        pool.remove(22.0, f"idle-{number}", "")
    assert scaler.decide(100.0, pool, scaling, 2).drain == (), "the last one is the minimum"


def test_more_is_started_only_when_it_is_needed_for_a_while() -> None:
    scaling = ScalingSettings(scaleup_window=10)
    pool, scaler = a_pool(busy=1, backlog=1), Scaler()
    assert scaler.decide(10.0, pool, scaling, 2) == Decision(0, (), 11.0)
    assert scaler.decide(19.0, pool, scaling, 2).start == 0
    assert scaler.decide(20.0, pool, scaling, 2).start == 1
    assert Scaler().decide(10.0, a_pool(backlog=3), scaling, 4).start == 1, "the first does not wait, its companions do"


@pytest.mark.parametrize("period", [60.0, 3600.0])
def test_a_timer_finds_its_container_warm(period: float) -> None:
    """With prediction, what comes regularly waits only while it is learnt; and no container is kept in between."""
    count = 24
    function = TracedFunction("f", tuple(period * i for i in range(1, count + 1)), (0.5,) * count, start=3.0)
    predictive = Checked(ScalingSettings(scaledown_window=20, predictive=True), 4)
    outcome = replay(function, predictive, period * count + 10)
    assert outcome.cold <= 6, outcome
    assert all(wait < 0.5 for wait in outcome.waits[8:])
    warm_all_the_time = period * count
    assert outcome.container_seconds < 0.4 * warm_all_the_time
    reactive = replay(function, Checked(ScalingSettings(scaledown_window=20), 4), period * count + 10)
    assert reactive.cold == count


def test_an_input_that_waits_for_its_next_attempt_needs_no_container_yet() -> None:
    once = PoolSettings(max_inputs_per_container=1, retry=RetryPolicy(1, initial_delay=60.0))
    pool, scaler, scaling = Pool(once), Scaler(), ScalingSettings()
    pool.launch(0.0, "a", "")
    pool.poll(1.0, "a", 1)
    pool.add(1.0, [PooledInput("fails", "")])
    pool.fail(2.0, "a", "fails")
    pool.remove(3.0, "a", "")
    assert scaler.decide(3.0, pool, scaling, 2).start == 0
    pool.tick(62.0)
    assert scaler.decide(62.0, pool, scaling, 2).start == 1


def test_what_drains_counts_for_the_maximum_unless_it_is_replaced() -> None:
    pool, scaling = a_pool(busy=2, backlog=2), ScalingSettings(max_containers=2)
    pool.drain("busy-0")
    assert Scaler().decide(11.0, pool, scaling, 2).start == 0
    rollout = Rollout()
    rollout.begin(11.0, pool, "another definition")
    assert Scaler().decide(11.0, pool, scaling, 2).start == 1


def test_a_container_that_has_room_and_does_not_ask_is_not_relied_on() -> None:
    pool, scaler = a_pool(idle=1, backlog=1), Scaler()  # it has asked at 1 s; the input is from 10 s
    assert scaler.decide(11.0, pool, ScalingSettings(), 2).start == 0
    assert scaler.decide(20.0, pool, ScalingSettings(), 2).start == 1
    pool.poll(20.5, "idle-0", 1)
    assert scaler.decide(21.0, pool, ScalingSettings(), 2).start == 0


def test_a_container_whose_inputs_wait_for_others_is_replaced_at_once() -> None:
    """As if there were none: without regard to estimates, to busy processors and to the scale-up window."""
    pool, scaler, scaling = a_pool(busy=1, backlog=1), Scaler(), ScalingSettings(scaleup_window=60)
    scaler.ran(0.01)
    assert scaler.decide(10.0, pool, scaling, 0) == Decision(0, (), 11.0)
    pool.block("busy-0", "run-0")
    assert scaler.decide(10.0, pool, scaling, 0).start == 1
    pool.unblock("busy-0", "run-0")
    assert scaler.decide(10.0, pool, scaling, 0).start == 0


def test_a_deadlock_by_the_maximum_is_seen() -> None:
    pool, scaling = a_pool(busy=2, backlog=1), ScalingSettings(max_containers=2)
    pool.block("busy-0", "run-0")
    assert not Scaler().decide(10.0, pool, scaling, 2).stuck
    pool.block("busy-1", "run-1")
    assert Scaler().decide(10.0, pool, scaling, 2).stuck
    assert not Scaler().decide(10.0, pool, replace(scaling, max_containers=3), 2).stuck


def test_more_than_the_processors_hold_is_asked_for_when_an_input_has_waited_for_a_minute() -> None:
    """Until then what comes on top of others is `extra`, and gets no processor time twice while all of it is in use."""
    for now, extra in ((69.0, True), (70.5, False)):
        decision = Scaler().decide(now, a_pool(busy=1, backlog=1), ScalingSettings(), 0)
        assert (decision.start, decision.extra) == (1, extra)
