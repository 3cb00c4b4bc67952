"""Nobody waits for ever: an input that waits while there is room for a container gets one in a bounded time, whatever has happened before, and
there are never more containers than there is demand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.autoscaler import ScalingSettings
from stoker.core.books import ContainerState, PooledInput, PoolSettings
from tests.core.machine import Call, Function, Machine, Run, Step

LONGEST_START = 4.0
# Seconds: until a container counts as deaf, or a start as long, and a look each second; on a busy machine the longest pause, too.
BOUND, BUSY_BOUND = 30.0 + 2, 30.0

RUNS = st.builds(Run, st.one_of(st.floats(0, 1), st.floats(0, 60), st.just(600.0)), st.booleans())
POOLS = st.builds(
    PoolSettings,
    max_concurrent_inputs=st.sampled_from([1, 1, 3]),
    batch_max_size=st.sampled_from([1, 1, 3]),
    batch_linger=st.sampled_from([0.1, 20.0]),
    timeout=st.just(1e12),
    max_inputs_per_container=st.sampled_from([0, 0, 1]),
)
SCALINGS = st.builds(
    ScalingSettings,
    min_containers=st.integers(0, 2),
    max_containers=st.one_of(st.none(), st.integers(2, 6)),
    buffer_containers=st.integers(0, 1),
    scaledown_window=st.floats(2, 100),
    scaleup_window=st.sampled_from([0.0, 0.0, 7.0]),
    predictive=st.booleans(),
)


@st.composite
def functions(draw: st.DrawFn) -> Function:
    pool = draw(POOLS)
    if pool.max_inputs_per_container:
        pool = replace(pool, max_concurrent_inputs=1, max_inputs_per_container=pool.batch_max_size)
    most = pool.max_concurrent_inputs * pool.batch_max_size
    scaling = replace(draw(SCALINGS), target_inputs=draw(st.sampled_from([most, max(1, most // 2)])))
    return Function(scaling, pool, draw(st.floats(0.1, LONGEST_START)))


def check_progress(machine: Machine, name: str) -> None:
    """While there is room, nobody waits for long without a container having begun to start. (One that does not come up has a time limit.)"""
    line = machine.lines[name]
    pool, most = line.pool, line.function.scaling.max_containers
    at_most = most is not None and len(pool.containers) >= most
    starting = sum(c.state is ContainerState.STARTING for c in pool.containers.values())
    awaited = starting * min(line.function.scaling.target_inputs, pool.settings.max_inputs_per_container or math.inf)
    if len(pool.waiting) <= awaited or at_most or machine.containers >= machine.room:
        line.short_since = math.inf
        return
    line.short_since = min(line.short_since, machine.now)
    since = sorted(pool.inputs[i].waiting_since for i in pool.waiting)[int(awaited)]
    waited = machine.now - max(since, line.short_since, line.launched_at)
    bound = BOUND + (BUSY_BOUND if machine.busy else 0)
    bound += min(2 * max(line.scaler.usual_start or 0.0, LONGEST_START) + 1, 60)  # how long estimates are believed
    bound += line.function.scaling.scaleup_window + pool.settings.batch_linger
    assert waited <= bound, f"{name} waits for {waited:.0f} s"


def check_supply(machine: Machine, name: str) -> None:
    """No more containers than inputs; never more than the user allows."""
    line = machine.lines[name]
    scaling, containers = line.function.scaling, line.pool.containers.values()
    if scaling.max_containers is not None:
        assert len(containers) <= scaling.max_containers
    if line.started and not scaling.predictive:
        live = [c for c in containers if c.state is not ContainerState.DRAINING]
        demand = len(line.pool.waiting) + sum(len(c.running) for c in live)
        unheard = sum(1 for c in live if c.ready_at and not c.polling and line.pool.takes(c))
        buffer = scaling.buffer_containers if line.pool.inputs else 0
        assert len(live) <= max(demand + buffer, scaling.min_containers) + unheard


def check(machine: Machine, name: str) -> None:
    check_progress(machine, name)
    check_supply(machine, name)


@settings(max_examples=200)
@given(
    function=functions(),
    inputs=st.lists(st.tuples(st.floats(0, 200), RUNS), min_size=1, max_size=25),
    fails=st.sets(st.integers(1, 10), max_size=4),
    hangs=st.sets(st.integers(1, 10), max_size=4),
    busy=st.booleans(),
)
def test_whoever_waits_gets_a_container_in_time(
    function: Function, inputs: list[tuple[float, Run]], fails: set[int], hangs: set[int], busy: bool
) -> None:
    machine = Machine({"f": function}, fails=fails, hangs=hangs, busy=busy, watch=check)
    for at, run in inputs:
        machine.call(at, "f", run)
    machine.run()
    assert not machine.unfinished


TREES: st.SearchStrategy[tuple[Step, ...]] = st.recursive(
    st.tuples(RUNS),
    lambda inner: st.lists(
        st.one_of(RUNS, st.builds(Call, st.sampled_from(["f", "g"]), inner, st.booleans())), min_size=1, max_size=3
    ).map(tuple),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    f=functions(),
    g=functions(),
    calls=st.lists(st.tuples(st.floats(0, 60), st.sampled_from(["f", "g"]), TREES), min_size=1, max_size=5),
    busy=st.booleans(),
)
def test_nested_calls_finish_where_there_is_room(
    f: Function, g: Function, calls: list[tuple[float, str, tuple[Step, ...]]], busy: bool
) -> None:
    named = {
        name: replace(function, scaling=replace(function.scaling, max_containers=None))
        for name, function in (("f", f), ("g", g))
    }
    machine = Machine(named, busy=busy, watch=check)
    for at, name, steps in calls:
        machine.call(at, name, *steps)
    machine.run()
    assert not machine.unfinished


def nested(*names: str) -> tuple[Step, ...]:
    """An input that calls the first of the functions, which calls the second, and so on."""
    return (Run(0.5), Call(names[0], nested(*names[1:])), Run(0.5)) if names else (Run(0.5),)


@pytest.mark.parametrize("busy", [False, True])
def test_a_recursion_is_not_held_up_by_estimates(busy: bool) -> None:
    """All inputs before it were short, so the one that runs seems to be about to end; but it waits for the one that waits."""
    machine = Machine({"f": Function(start=1.0)}, busy=busy)
    for second in range(20):
        machine.call(float(second), "f", Run(0.01))
    machine.run()
    begun = machine.now
    machine.call(0.0, "f", *nested(*"fffff"))
    machine.run(begun + 5 * (0.5 + 1.0 + 0.5) + 2)
    assert not machine.unfinished, "each level costs one start"


def test_recursions_do_not_fill_a_machine_with_inputs_that_wait_for_each_other() -> None:
    """In the order of their arrival, each container that comes up would get an input that needs others behind it."""
    machine = Machine({"f": Function(start=1.0)}, room=20)
    for number in range(200):
        machine.call(number // 5 * 5.0, "f", *nested(*"fff"))
    machine.run(1_000.0)
    assert not machine.unfinished


def test_functions_that_call_each_other_do_not_fill_a_machine_either() -> None:
    machine = Machine({"f": Function(start=1.0), "g": Function(start=1.0)}, room=30)
    for number in range(90):
        machine.call(number // 3 * 3.0, "f", *nested(*"gfgfg"))
    machine.run(1_000.0)
    assert not machine.unfinished


def test_a_call_that_nobody_waits_for_blocks_nobody() -> None:
    machine = Machine({"f": Function()})
    machine.call(0.0, "f", Run(0.1))
    for second in range(5, 20):
        machine.call(float(second), "f", Run(0.1), Call("f", (Run(0.1),), forgotten=True), Run(0.1))
    machine.run()
    assert machine.lines["f"].launches == 1


def test_who_waits_for_others_in_turn_lets_a_map_of_its_own_not_overtake_all() -> None:
    """One input of a recursion at a time goes before the others; the rest of them stand in line."""
    pool = Machine({"f": Function()}).lines["f"].pool
    pool.launch(1.0, "a", "")
    pool.poll(1.0, "a", 1)
    pool.add(1.0, [PooledInput("parent", "")])
    pool.add(2.0, [PooledInput("other", ""), PooledInput("child-1", ""), PooledInput("child-2", "")])
    pool.hurry(["child-1", "child-2"])
    assert list(pool.waiting) == ["child-1", "other", "child-2"]
    pool.launch(2.0, "b", "")
    pool.poll(2.0, "b", 1)
    pool.hurry(["child-1", "child-2"])
    assert list(pool.waiting) == ["other", "child-2"]
    pool.succeed(3.0, "b", "child-1")
    pool.hurry(["child-2"])
    assert list(pool.waiting) == ["child-2", "other"]


def test_a_short_input_does_not_wait_for_a_long_one() -> None:
    machine = Machine({"f": Function(start=1.0)})
    for number in range(10):
        machine.call(5.0 * number, "f", Run(0.01))
    machine.run()
    begun = machine.now
    machine.call(0.0, "f", Run(45.0))
    machine.call(0.1, "f", Run(0.01))
    machine.run(begun + 3.5)
    assert machine.unfinished == 1


@pytest.mark.parametrize("busy", [False, True])
def test_a_start_that_hangs_keeps_nobody_waiting(busy: bool) -> None:
    """Five short inputs could soon be run by the one container that starts; if it did."""
    machine = Machine({"f": Function(start=1.0)}, hangs=[2], busy=busy)
    machine.call(0.0, "f", Run(0.01))
    machine.run()
    machine.now += 100.0
    for _ in range(5):
        machine.call(0.0, "f", Run(0.01))
    machine.run(machine.now + 60)
    assert not machine.unfinished


def test_a_batch_that_runs_long_keeps_nobody_waiting() -> None:
    function = Function(
        ScalingSettings(target_inputs=4), PoolSettings(batch_max_size=4, batch_linger=0.1, timeout=1e12)
    )
    machine = Machine({"f": function})
    for number in range(10):
        machine.call(5.0 * number, "f", Run(0.01))
    machine.run()
    begun = machine.now
    machine.call(0.0, "f", Run(45.0))
    machine.call(1.0, "f", Run(0.01))
    machine.run(begun + 4.5)
    assert machine.unfinished == 1


def test_busy_processors_hold_up_growth_for_a_short_time() -> None:
    machine = Machine({"f": Function(ScalingSettings(max_containers=4))}, busy=True)
    for _ in range(8):
        machine.call(0.0, "f", Run(10.0))
    machine.run(60.0)
    assert machine.most == 4 and machine.now < 40


ONCE = PoolSettings(max_inputs_per_container=1, timeout=1e12)


@pytest.mark.parametrize("pool", [ONCE, replace(ONCE, batch_max_size=3), replace(ONCE, max_concurrent_inputs=3)])
@pytest.mark.parametrize("predictive", [False, True])
def test_a_container_that_serves_once_is_started_once_for_each_input(pool: PoolSettings, predictive: bool) -> None:
    """Also while it runs and is not to get another."""
    target = pool.max_concurrent_inputs * pool.batch_max_size
    machine = Machine({"f": Function(ScalingSettings(target_inputs=target, predictive=predictive), pool)})
    machine.call(0.0, "f", Run(10.0))
    machine.run()
    assert machine.lines["f"].launches == 1
    for _ in range(4):
        machine.call(0.0, "f", Run(10.0))
    machine.run(machine.now + 2.5)
    assert machine.lines["f"].launches == 5 and machine.most == 4, "each has its own"
    assert not machine.lines["f"].pool.waiting, "two start at a time"


def test_containers_that_serve_once_keep_to_the_maximum_while_they_drain() -> None:
    machine = Machine({"f": Function(ScalingSettings(max_containers=1), ONCE)})
    for _ in range(4):
        machine.call(0.0, "f", Run(10.0))
    machine.run()
    assert machine.most == 1 and not machine.unfinished
