"""Which image builds run, wait, and end."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoker.core.build_queue import GRACE, BuildQueue, End, Start


def test_builds_start_in_their_order() -> None:
    queue = BuildQueue(2)
    for name in ("a", "b"):
        assert queue.ask(0.0, name, confined=False) == [Start(name)]
        queue.watch(0.0, name)
    for name in ("c", "d"):
        assert queue.ask(1.0, name, confined=False) == []
        queue.watch(1.0, name)
    assert (queue.ahead_of("c"), queue.ahead_of("d")) == (0, 1)
    assert queue.ended(2.0, "b") == [Start("c")]
    assert queue.ended(3.0, "a") == [Start("d")]


def test_what_nobody_waits_for_makes_room_for_what_somebody_waits_for() -> None:
    queue = BuildQueue(2)
    for name in ("a", "b"):
        queue.ask(0.0, name, confined=False)
        queue.watch(0.0, name)
        queue.unwatch(1.0, name)
    # While nobody needs the slot it goes on.
    assert queue.check(1000.0) == []
    actions = queue.ask(1000.0, "c", confined=False)
    assert [(type(action), action.id) for action in actions] == [(End, "a")]
    assert queue.check(1001.0) == []
    assert queue.ended(1002.0, "a") == [Start("c")]


def test_a_pause_in_the_connection_is_borne() -> None:
    queue = BuildQueue(1)
    queue.ask(0.0, "a", confined=False)
    queue.watch(0.0, "a")
    queue.unwatch(5.0, "a")
    queue.ask(6.0, "b", confined=False)
    queue.watch(6.0, "b")
    due = queue.next_check(6.0)
    assert due == GRACE - 1.0
    assert queue.check(6.0 + due - 0.1) == []
    queue.watch(6.0 + due - 0.1, "a")
    assert queue.check(6.0 + due + 1.0) == [] and queue.next_check(6.0 + due + 1.0) is None


def test_one_that_has_not_begun_is_dropped() -> None:
    queue = BuildQueue(1)
    queue.ask(0.0, "a", confined=False)
    queue.watch(0.0, "a")
    queue.ask(0.0, "b", confined=False)
    assert [action.id for action in queue.check(GRACE)] == ["b"]
    assert queue.ended(GRACE, "b") == []


def test_containers_leave_a_slot_to_clients() -> None:
    queue = BuildQueue(2)
    started = [queue.ask(0.0, name, confined=True) for name in ("a", "b", "c")]
    assert started == [[Start("a")], [], []]
    assert queue.ask(0.0, "client", confined=False) == [Start("client")]
    for name in ("a", "b", "c", "client"):
        queue.watch(0.0, name)
    assert queue.ended(1.0, "client") == []
    assert queue.ended(2.0, "a") == [Start("b")]


class Machine(RuleBasedStateMachine):
    """Any history of builds."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = BuildQueue(2)
        self.now = 0.0
        self.count = 0

    def apply(self, actions: list[Start | End]) -> None:
        for action in actions:
            build = self.queue.builds[action.id]
            assert build.running if isinstance(action, Start) else build.ending
            if isinstance(action, End):
                assert not build.watchers and self.now - build.watched_at >= GRACE, "somebody waits for it"

    @rule(confined=st.booleans(), watched=st.booleans())
    def ask(self, confined: bool, watched: bool) -> None:
        self.count += 1
        name = str(self.count)
        self.apply(self.queue.ask(self.now, name, confined=confined))
        if watched:
            self.queue.watch(self.now, name)

    @precondition(lambda self: self.queue.builds)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        able = [name for name, build in self.queue.builds.items() if build.running or build.ending]
        if able:
            self.apply(self.queue.ended(self.now, data.draw(st.sampled_from(able))))

    @precondition(lambda self: self.queue.builds)
    @rule(data=st.data(), away=st.booleans())
    def watchers(self, data: st.DataObject, away: bool) -> None:
        name = data.draw(st.sampled_from(list(self.queue.builds)))
        if not away:
            self.queue.watch(self.now, name)
        elif self.queue.builds[name].watchers:
            self.queue.unwatch(self.now, name)

    @rule(seconds=st.floats(0.0, 2 * GRACE))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.apply(self.queue.check(self.now))

    @invariant()
    def slots_are_kept_and_used(self) -> None:
        self.apply(self.queue.check(self.now))
        builds = self.queue.builds.values()
        running = [build for build in builds if build.running]
        assert len(running) <= 2
        assert sum(build.confined for build in running) <= 1
        waiting = [build for build in builds if not build.running and not build.ending and not build.confined]
        if len(running) < 2:
            assert not waiting, "a slot is free"
        if waiting and not any(build.ending for build in running):
            assert not [b for b in running if not b.watchers and self.now - b.watched_at >= GRACE], "it could make room"


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestBuildQueue = Machine.TestCase
