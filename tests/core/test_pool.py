"""Property tests of the pool: no schedule of events loses or doubles an input or exceeds a limit."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.core.actions import Action, CancelRunning, Deliver, Dismiss, Finish, Kill
from stoker.core.books import ContainerState, PooledInput, PoolSettings
from stoker.core.checked_pool import CheckedPool
from stoker.core.pool import Pool
from stoker.core.retries import RetryPolicy


class PoolMachine(RuleBasedStateMachine):
    """Drives a pool with arbitrary events and keeps its own, simpler books."""

    @initialize(
        concurrent=st.integers(1, 3), batch=st.integers(1, 4), retries=st.integers(0, 2), single_use=st.booleans()
    )
    def start(self, concurrent: int, batch: int, retries: int, single_use: bool) -> None:
        self.settings = PoolSettings(
            max_concurrent_inputs=concurrent,
            batch_max_size=batch,
            batch_linger=0.5,
            timeout=10.0,
            retry=RetryPolicy(retries, 2.0, 1.0, 5.0),
            max_inputs_per_container=batch if single_use else 0,
        )
        self.pool = CheckedPool(self.settings)
        self.now = 0.0
        self.count = 0
        self.added: set[str] = set()
        self.finished: set[str] = set()
        self.held: dict[str, set[str]] = {}  # container -> inputs it was given and has not reported
        self.polls: set[str] = set()
        self.leaving: set[str] = set()
        self.blocks: list[tuple[str, str]] = []

    @rule(number=st.integers(1, 6))
    def add(self, number: int) -> None:
        new = [PooledInput(f"in-{self.count + i}", "fc") for i in range(number)]
        self.count += number
        self.added |= {item.id for item in new}
        self.apply(self.pool.add(self.now, new))

    @rule()
    def launch(self) -> None:
        container = f"ta-{self.count}-{len(self.held)}"
        if container not in self.held:
            self.held[container] = set()
            self.pool.launch(self.now, container, "de")

    @precondition(lambda self: any(self.can_poll(c) for c in self.held))
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        container = data.draw(st.sampled_from(sorted(c for c in self.held if self.can_poll(c))))
        self.polls.add(container)
        self.apply(self.pool.poll(self.now, container, self.settings.batch_max_size))

    @precondition(lambda self: not self.settings.max_inputs_per_container)
    @rule()
    def take(self) -> None:
        item = PooledInput(f"in-{self.count}", "")
        container = self.pool.take(self.now, item)
        if container is not None:
            assert container not in self.leaving
            self.count += 1
            self.added.add(item.id)
            self.held[container].add(item.id)

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), good=st.booleans())
    def report(self, data: st.DataObject, good: bool) -> None:
        container = data.draw(st.sampled_from(sorted(c for c, inputs in self.held.items() if inputs)))
        item = data.draw(st.sampled_from(sorted(self.held[container])))
        self.held[container].discard(item)
        report = self.pool.succeed if good else self.pool.fail
        final, actions = report(self.now, container, item)
        if final:
            self.finish(item)
        again, _ = report(self.now, container, item)
        assert not again, "an output was accepted twice"
        self.apply(actions)

    @precondition(lambda self: any(self.held.values()) and not self.settings.max_inputs_per_container)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        container = data.draw(st.sampled_from(sorted(c for c, inputs in self.held.items() if inputs)))
        lost = data.draw(st.sets(st.sampled_from(sorted(self.held[container])), min_size=1))
        self.held[container] -= lost
        self.apply(self.pool.give_back(self.now, container, sorted(lost)))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        container = data.draw(st.sampled_from(sorted(self.held)))
        self.drop(container)
        self.apply(self.pool.remove(self.now, container, "It died."))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        container = data.draw(st.sampled_from(sorted(self.held)))
        self.leaving.add(container)
        self.apply(self.pool.drain(container))

    @precondition(lambda self: self.added - self.finished)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.apply(self.pool.cancel(self.now, [data.draw(st.sampled_from(sorted(self.added - self.finished)))]))

    @precondition(lambda self: self.added - self.finished)
    @rule(data=st.data())
    def hurry(self, data: st.DataObject) -> None:
        alive = sorted(self.added - self.finished)
        self.pool.hurry(data.draw(st.lists(st.sampled_from(alive), min_size=1, max_size=4)))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), waiter=st.sampled_from(["in-0", "in-1", "a thread"]))
    def wait_for_a_result(self, data: st.DataObject, waiter: str) -> None:
        container = data.draw(st.sampled_from(sorted(self.held)))
        self.pool.block(container, waiter)
        self.blocks.append((container, waiter))

    @precondition(lambda self: self.blocks)
    @rule()
    def get_a_result(self) -> None:
        self.pool.unblock(*self.blocks.pop())
        if not self.blocks:
            assert not any(c.waits for c in self.pool.containers.values())

    @rule()
    def give_up_waiting(self) -> None:
        self.apply(self.pool.fail_waiting(self.now, "No container starts."))

    @rule(seconds=st.floats(0.1, 6.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.apply(self.pool.tick(self.now))

    @invariant()
    def every_input_is_in_one_place(self) -> None:
        if not hasattr(self, "pool"):
            return
        alive = self.added - self.finished
        assert set(self.pool.inputs) == alive
        waiting = list(self.pool.waiting)
        delayed = [i for _, i in self.pool._delayed if i in alive]
        running = [i for c in self.pool.containers.values() for i in c.running if i in alive]
        assert sorted(waiting + delayed + running) == sorted(alive)
        assert self.pool.backlog == len(waiting) + len(delayed)

    @invariant()
    def the_books_agree(self) -> None:
        if hasattr(self, "pool"):
            self.pool.validate()

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "pool"):
            return
        for container in self.pool.containers.values():
            assert len(container.running) <= self.settings.max_concurrent_inputs * self.settings.batch_max_size
            if self.settings.max_inputs_per_container:
                assert container.served <= self.settings.max_inputs_per_container

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """A waiting input and an open poll of a container with room exist together only while a batch fills."""
        if not hasattr(self, "pool"):
            return
        slots = self.settings.max_concurrent_inputs * self.settings.batch_max_size
        open_polls = [
            c
            for c in self.pool.containers.values()
            if c.polling and c.state is ContainerState.READY and len(c.running) < slots
        ]
        if self.pool.waiting and open_polls:
            assert self.settings.batch_max_size > 1
            due = self.pool.next_tick()
            assert due is not None and due <= self.now + self.settings.batch_linger

    def can_poll(self, container: str) -> bool:
        free = self.settings.max_concurrent_inputs * self.settings.batch_max_size - len(self.held[container])
        return container not in self.polls and free >= self.settings.batch_max_size

    def apply(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                assert action.container_id in self.polls, "inputs for a container that did not ask"
                assert 1 <= len(action.inputs) <= self.settings.batch_max_size
                assert action.container_id not in self.leaving
                self.polls.discard(action.container_id)
                for item, _ in action.inputs:
                    assert item not in self.finished
                    self.held[action.container_id].add(item)
            elif isinstance(action, Dismiss):
                self.polls.discard(action.container_id)
            elif isinstance(action, Kill):
                self.drop(action.container_id)
            elif isinstance(action, Finish):
                self.finish(action.input_id)
            elif isinstance(action, CancelRunning):
                assert action.container_id in self.held

    def finish(self, item: str) -> None:
        assert item not in self.finished, "an input ended twice"
        self.finished.add(item)

    def drop(self, container: str) -> None:
        self.held.pop(container, None)
        self.polls.discard(container)
        self.leaving.discard(container)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40)


def test_an_input_that_kills_its_containers_is_given_up() -> None:
    pool = Pool(PoolSettings())
    pool.add(0.0, [PooledInput("in-1", "fc-1")])
    for attempt in range(3):
        pool.launch(0.0, f"ta-{attempt}", "de")
        assert pool.poll(0.0, f"ta-{attempt}", 1) == [Deliver(f"ta-{attempt}", (("in-1", attempt),))]
        actions = pool.remove(1.0, f"ta-{attempt}", "The container exited with code 1.")
    assert [type(a) for a in actions] == [Finish]
    assert "given up" in actions[0].detail and "code 1" in actions[0].detail  # type: ignore[union-attr]


def test_a_batch_waits_for_company_but_not_longer_than_its_linger() -> None:
    pool = Pool(PoolSettings(batch_max_size=3, batch_linger=0.5))
    pool.launch(0.0, "ta-1", "de")
    assert pool.poll(0.0, "ta-1", 3) == []
    assert pool.add(1.0, [PooledInput("in-1", "fc")]) == []
    assert pool.next_tick() == 1.5
    assert pool.tick(1.4) == []
    assert pool.tick(1.5) == [Deliver("ta-1", (("in-1", 0),))]


def test_a_full_batch_goes_at_once() -> None:
    pool = Pool(PoolSettings(batch_max_size=2, batch_linger=9.0))
    pool.launch(0.0, "ta-1", "de")
    pool.poll(0.0, "ta-1", 2)
    assert pool.add(1.0, [PooledInput(f"in-{i}", "fc") for i in range(3)]) == [
        Deliver("ta-1", (("in-0", 0), ("in-1", 0)))
    ]


class Affinity:
    """A pool of ready containers, whose inputs end as soon as they began unless a test holds them."""

    def __init__(self, containers: int, slots: int = 1) -> None:
        self.pool = Pool(PoolSettings(max_concurrent_inputs=slots))
        self.count = 0
        for number in range(containers):
            self.add(f"ta-{number}")

    def add(self, container: str) -> None:
        self.pool.launch(0.0, container, "de")
        self.pool.poll(0.0, container, 1)

    def hold(self, key: str) -> tuple[str | None, str]:
        self.count += 1
        return self.pool.take(0.0, PooledInput(f"sr-{self.count}", ""), key.encode()), f"sr-{self.count}"

    def take(self, key: str) -> str:
        container, input_id = self.hold(key)
        assert container is not None
        self.pool.succeed(0.0, container, input_id)
        return container


def test_the_same_key_goes_to_the_same_container() -> None:
    pool, keys = Affinity(8), [f"user-{n}" for n in range(800)]
    first = {key: pool.take(key) for key in keys}
    assert {key: pool.take(key) for key in reversed(keys)} == first
    assert len(first) == 800 and min(list(first.values()).count(f"ta-{n}") for n in range(8)) > 60
    # One container more takes keys and moves none between the others.
    pool.add("ta-8")
    more = {key: pool.take(key) for key in keys}
    assert {key for key in keys if more[key] != first[key]} == {key for key in keys if more[key] == "ta-8"}
    assert 40 < list(more.values()).count("ta-8") < 160
    # One fewer sends its keys to all others.
    pool.pool.remove(0.0, "ta-3", "gone")
    less = {key: pool.take(key) for key in keys}
    moved = [key for key in keys if less[key] != more[key]]
    assert {more[key] for key in moved} == {"ta-3"} and len({less[key] for key in moved}) > 5


def test_a_full_container_passes_its_keys_on() -> None:
    pool = Affinity(3)
    places = [pool.hold("user") for _ in range(4)]
    assert {container for container, _ in places[:3]} == {"ta-0", "ta-1", "ta-2"}
    assert places[3][0] is None
    second = places[1]
    assert second[0] is not None
    pool.pool.succeed(0.0, second[0], second[1])
    assert pool.hold("user")[0] == second[0]
