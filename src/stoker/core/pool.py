"""The pool of one function: its waiting inputs, its containers, and who runs what. Pure: events in, actions out, time is an argument.

An input is always in exactly one place: waiting, delayed (for a retry), running in one container, or gone (finished). A container asks for
inputs by a *poll*; it has at most one open poll. An input is finished once: later outputs for it are ignored.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable

from stoker.core.actions import Action, CancelRunning, Deliver, Dismiss, Finish, Kill, Outcome
from stoker.core.affinity import drawn_to
from stoker.core.books import Books, ContainerState, PooledContainer, PooledInput, PoolSettings
from stoker.core.invariants import BrokenInvariant, violations
from stoker.core.story import MAX_REASON, Story, Transition

MAX_LOST_ATTEMPTS = 3
"""An input whose container died this often while running it is given up: it is likely what kills the container."""


class Pool:
    """One function's inputs and containers."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.inputs: dict[str, PooledInput] = {}
        self.containers: dict[str, PooledContainer] = {}
        self.waiting: OrderedDict[str, None] = OrderedDict()  # the ids, in the order in which they are to run
        self._delayed: list[tuple[float, str]] = []
        self._where: dict[str, str] = {}  # running input -> container
        self._story = Story()
        self._note, self._mark = self._story.note, self._story.mark

    def redefine(self, now: float, settings: PoolSettings) -> list[Action]:
        """The function wants its inputs run otherwise from now on. Containers keep what they run, even where it is more than allowed now."""
        self.settings = settings
        for container in self.containers.values():
            container.excused = container.excused or container.room(self.settings) < 0
        return self._deliver(now)

    # Inputs

    def add(self, now: float, inputs: Iterable[PooledInput]) -> list[Action]:
        """New inputs, in order. An id that is known already is ignored."""
        for item in inputs:
            if item.id in self.inputs:
                continue
            item.waiting_since = now
            self.inputs[item.id] = item
            self.waiting[item.id] = None
            self._note((now, "waits", item.id, ""))
        return self._deliver(now)

    def take(self, now: float, item: PooledInput, affinity: bytes = b"") -> str | None:
        """Runs an input at once in a ready container with room, whether or not it polls. None, and nothing has changed, when there is no such
        container, or when others wait already. affinity: inputs with the same one go to the same container, as far as possible."""
        if self.waiting:
            return None
        roomy = [c for c in self.containers.values() if c.state is ContainerState.READY and c.room(self.settings) > 0]
        if not roomy:
            return None
        container = drawn_to(affinity, roomy) if affinity else self._choose(roomy)
        item.waiting_since = now
        self.inputs[item.id] = item
        self._begin(now, container, item.id)
        return container.id

    def succeed(self, now: float, container_id: str, input_id: str) -> tuple[bool, list[Action]]:
        """A container reports a final output (also a failure that is not retried). False: the output must be ignored."""
        if not self._release(now, container_id, input_id):
            return False, self._deliver(now)  # a cancelled one leaves room, too
        del self.inputs[input_id]
        self._note((now, "ends with a result", input_id, container_id))
        return True, self._deliver(now)

    def fail(self, now: float, container_id: str, input_id: str) -> tuple[bool, list[Action]]:
        """A container reports that the user's code raised. True: the failure is final and is the output; False: ignore it (a retry is planned
        or the output is stale)."""
        if not self._release(now, container_id, input_id):
            return False, self._deliver(now)  # a cancelled one leaves room, too
        if self._plan_retry(now, self.inputs[input_id]):
            return False, self._deliver(now)
        del self.inputs[input_id]
        self._mark((now, "ends with a failure", input_id, container_id))
        return True, self._deliver(now)

    def cancel(self, now: float, input_ids: Iterable[str]) -> list[Action]:
        """Ends inputs for their callers at once; running ones are told to stop, and their slot is free when they report."""
        actions: list[Action] = []
        told: dict[str, list[str]] = {}
        for input_id in input_ids:
            item = self.inputs.get(input_id)
            if item is None:
                continue
            container_id = self._where.get(input_id)
            if container_id is not None:
                told.setdefault(container_id, []).append(input_id)
            self.waiting.pop(input_id, None)
            actions.append(self._end(now, item, Outcome.CANCELLED, "The input was cancelled."))
        actions += [CancelRunning(container_id, tuple(ids)) for container_id, ids in told.items()]
        return actions

    def pin(self, input_id: str) -> None:
        """This attempt of an input is the last one, however it ends."""
        item = self.inputs.get(input_id)
        if item is not None and not item.pinned:
            item.pinned = True
            self._note((self._story.now, "must not run again", input_id, self._where.get(input_id, "")))

    def hurry(self, input_ids: Iterable[str]) -> None:
        """Inputs of this function run and wait for these (of one call): while none of them runs, the first of them goes before all others.
        Else the containers could fill with inputs that wait for others behind them."""
        if self.settings.batch_max_size > 1:
            return  # a batch waits for company by the age of its first input
        first = None
        for input_id in input_ids:
            if input_id in self._where:
                return
            if first is None and input_id in self.waiting:
                first = input_id
        if first is not None:
            self.inputs[first].hurried = True
            self.waiting.move_to_end(first, last=False)
            self._note((self._story.now, "goes before all others", first, ""))

    # Containers

    def launch(self, now: float, container_id: str, definition_id: str) -> None:
        """A container of this function is being started."""
        self.containers[container_id] = PooledContainer(
            container_id, definition_id, started_at=now, idle_since=now, heard_at=now
        )
        self._mark((now, "is launched", "", container_id))

    def poll(self, now: float, container_id: str, capacity: int) -> list[Action]:
        """A container asks for up to `capacity` inputs."""
        container = self.containers[container_id]
        if container.state is ContainerState.STARTING:
            container.state = ContainerState.READY
            container.ready_at = container.idle_since = now
            self._mark((now, "is ready", "", container_id))
        container.heard_at = now
        container.polling = max(1, capacity)
        if container.state is ContainerState.DRAINING:
            container.polling = 0
            return [Dismiss(container_id)]
        return self._deliver(now)

    def give_back(self, now: float, container_id: str, input_ids: Iterable[str]) -> list[Action]:
        """A delivery did not reach its container, whose connection broke: the inputs wait again, before all others."""
        for input_id in reversed(list(input_ids)):
            if self._release(now, container_id, input_id):
                self.containers[container_id].served -= 1
                self.inputs[input_id].returned += 1
                self._mark((now, "is given back: it did not arrive", input_id, container_id))
                self._wait_first(input_id)
        return self._deliver(now)

    def unpoll(self, container_id: str) -> None:
        """The open poll of a container was answered empty or went away."""
        container = self.containers.get(container_id)
        if container is not None:
            container.polling = 0

    def block(self, container_id: str, waiter: str) -> None:
        """Something in a container begins to wait for the result of another call. waiter: which of its inputs, or, where that is not known,
        a name for what waits. Ends with `unblock`."""
        container = self.containers.get(container_id)
        if container is not None:
            container.waits[waiter] += 1

    def unblock(self, container_id: str, waiter: str) -> None:
        container = self.containers.get(container_id)
        if container is not None:
            container.waits[waiter] -= 1
            if container.waits[waiter] <= 0:
                del container.waits[waiter]

    def drain(self, container_id: str) -> list[Action]:
        """A container shall finish what it runs and exit."""
        container = self.containers.get(container_id)
        if container is None or container.state is ContainerState.DRAINING:
            return []
        container.state = ContainerState.DRAINING
        self._mark((self._story.now, "drains", "", container_id))
        if container.polling:
            container.polling = 0
            return [Dismiss(container_id)]
        return []

    def remove(self, now: float, container_id: str, reason: str, *, blame_inputs: bool = True) -> list[Action]:
        """A container is gone. What it ran is run again, but not for ever if the container died of it."""
        container = self.containers.pop(container_id, None)
        if container is None:
            return []
        self._mark((now, f"is gone: {reason[:MAX_REASON]}", "", container_id))
        actions: list[Action] = []
        for input_id in reversed(list(container.running)):
            del self._where[input_id]
            item = self.inputs.get(input_id)
            if item is None:
                continue  # cancelled meanwhile
            item.attempts += 1
            item.lost += blame_inputs
            self._mark((now, f"is lost with its container ({item.lost} to blame)", input_id, container_id))
            if item.pinned or item.lost >= MAX_LOST_ATTEMPTS:
                detail = reason
                if not item.pinned:
                    detail += f" This happened {item.lost} times while it ran this input, so the input is given up."
                actions.append(self._end(now, item, Outcome.LOST, detail))
            else:
                item.waiting_since = now
                self._wait_first(input_id)
        return actions + self._deliver(now)

    def fail_waiting(self, now: float, detail: str) -> list[Action]:
        """No container can start: every waiting input has failed an attempt."""
        actions: list[Action] = []
        waiting, self.waiting = self.waiting, OrderedDict()
        for input_id in waiting:
            item = self.inputs[input_id]
            if not self._plan_retry(now, item):
                actions.append(self._end(now, item, Outcome.INIT_FAILED, detail))
        return actions

    def give_up(self, detail: str) -> list[Action]:
        """No container will ever start: every input that does not run ends now."""
        ended = [item for item in self.inputs.values() if item.id not in self._where]
        self.waiting.clear()
        return [self._end(self._story.now, item, Outcome.INIT_FAILED, detail) for item in ended]

    # Time

    def tick(self, now: float) -> list[Action]:
        """What is due: retries, full batches, attempts that ran too long."""
        while self._delayed and self._delayed[0][0] <= now:
            _, input_id = heapq.heappop(self._delayed)
            if input_id in self.inputs:
                self.inputs[input_id].waiting_since = now
                self._note((now, "waits again", input_id, ""))
                if self.inputs[input_id].hurried:
                    self._wait_first(input_id)
                else:
                    self.waiting[input_id] = None
        return self._expire(now) + self._deliver(now)

    def next_tick(self) -> float | None:
        """The earliest time at which `tick` would do something, None when nothing is planned."""
        times = [self._delayed[0][0]] if self._delayed else []
        times += [min(c.running.values()) + self.settings.timeout for c in self.containers.values() if c.running]
        batch_due = self._batch_due()
        if batch_due is not None and any(c.polling for c in self.containers.values()):
            times.append(batch_due)
        return min(times, default=None)

    # What others look at

    @property
    def backlog(self) -> int:
        """Inputs that no container runs yet, retries included."""
        return len(self.inputs) - sum(1 for input_id in self._where if input_id in self.inputs)

    @property
    def running(self) -> int:
        return len(self._where)

    @property
    def headroom(self) -> int:
        """How many more inputs its containers could run now."""
        ready = [c for c in self.containers.values() if c.state is ContainerState.READY]
        return sum(max(0, container.room(self.settings)) for container in ready)

    def takes(self, container: PooledContainer) -> bool:
        """Whether a container that is up has room for another input. In one that works on a batch there is none before it asks again."""
        return container.room(self.settings) > 0 and (
            not container.running or self.settings.batch_max_size <= 1 or container.polling > 0
        )

    def blocked(self, container: PooledContainer) -> bool:
        """Whether all that a container runs waits for the results of other calls, so that it takes nothing before those have come."""
        return 0 < len(container.running) <= len(container.waits) and not self.takes(container)

    def waited(self, now: float) -> float:
        """Seconds for which the one that has waited longest has waited, without its time for company in a batch."""
        since = now
        for input_id in self.waiting:
            item = self.inputs[input_id]
            since = min(since, item.waiting_since)
            if not item.hurried and not item.attempts:
                break  # those behind it came later
        return max(0.0, now - since - (self.settings.batch_linger if self.settings.batch_max_size > 1 else 0.0))

    def story(self, *ids: str) -> list[Transition]:
        """What happened lately to inputs and containers, by their ids; without any, to all. See `story.py` for how much is kept."""
        return self._story.of(*ids)

    def validate(self) -> None:
        """Raises BrokenInvariant, with the story of what it is about, where the pool's books do not agree. Looks at every input."""
        found = violations(self._books())
        if found:
            ids = [name for violation in found for name in violation.ids]
            raise BrokenInvariant([str(violation) for violation in found], [str(step) for step in self.story(*ids)])

    # How it is done

    def _books(self) -> Books:
        return Books(
            self.settings, self.inputs, self.containers, self.waiting, self._delayed, self._where, self.backlog
        )

    def _deliver(self, now: float) -> list[Action]:
        """Matches waiting inputs with open polls. The fullest container that may take more comes first, so that others can go idle."""
        actions: list[Action] = []
        while self.waiting:
            # A poll of a full container stays open: it is answered when an input of that container ends.
            open_polls = [
                c
                for c in self.containers.values()
                if c.polling and c.state is ContainerState.READY and c.room(self.settings) > 0
            ]
            if not open_polls:
                break
            container = self._choose(open_polls)
            size = min(container.polling, container.room(self.settings))
            if self.settings.batch_max_size > 1:
                size = min(size, self.settings.batch_max_size)
                due = self._batch_due()
                if len(self.waiting) < size and due is not None and due > now:
                    break  # wait for the batch to fill
            else:
                size = min(size, 1)
            actions.append(self._hand_over(now, container, size))
        return actions

    def _choose(self, containers: list[PooledContainer]) -> PooledContainer:
        if len(containers) == 1:
            return containers[0]
        choose = min if self.settings.spread else max
        return choose(containers, key=lambda c: (len(c.running), c.idle_since))

    def _hand_over(self, now: float, container: PooledContainer, size: int) -> Deliver:
        taken = [self.waiting.popitem(last=False)[0] for _ in range(min(size, len(self.waiting)))]
        for input_id in taken:
            self._begin(now, container, input_id)
        container.polling = 0
        limit = self.settings.max_inputs_per_container
        final = bool(limit) and container.served >= limit
        if final:
            container.state = ContainerState.DRAINING
            self._mark((now, "drains: these are its last inputs", "", container.id))
        return Deliver(container.id, tuple((i, self.inputs[i].attempts) for i in taken), final)

    def _begin(self, now: float, container: PooledContainer, input_id: str) -> None:
        container.running[input_id] = container.heard_at = now
        self._where[input_id] = container.id
        container.served += 1
        self._note((now, "is delivered", input_id, container.id))

    def _batch_due(self) -> float | None:
        if not self.waiting or self.settings.batch_max_size <= 1:
            return None
        return self.inputs[next(iter(self.waiting))].waiting_since + self.settings.batch_linger

    def _release(self, now: float, container_id: str, input_id: str) -> bool:
        """Takes a reported input out of its container. False when it is not (any more) an input that container runs."""
        container = self.containers.get(container_id)
        if container is None or input_id not in container.running:
            self._mark((now, "is reported by one that does not run it", input_id, container_id))
            return False
        del container.running[input_id]
        del self._where[input_id]
        container.heard_at = now
        if not container.running:
            container.idle_since = now
        return input_id in self.inputs

    def _plan_retry(self, now: float, item: PooledInput) -> bool:
        item.attempts += 1
        item.failures += 1
        delay = self.settings.retry.delay(item.failures)
        if delay is None or item.pinned:
            return False
        heapq.heappush(self._delayed, (now + delay, item.id))
        self._mark((now, f"failed, and is to run again in {delay:g} s", item.id, ""))
        return True

    def _end(self, now: float, item: PooledInput, outcome: Outcome, detail: str) -> Finish:
        """An input ends without a result."""
        del self.inputs[item.id]
        self._note((now, f"ends: {outcome.value}", item.id, self._where.get(item.id, "")))
        return Finish(item.id, item.call_id, outcome, detail)

    def _expire(self, now: float) -> list[Action]:
        """An attempt over its time takes its container with it: nothing inside can be trusted to stop."""
        actions: list[Action] = []
        for container in list(self.containers.values()):
            late = [i for i, start in container.running.items() if now - start >= self.settings.timeout]
            if not late:
                continue
            reason = f"ran longer than its timeout of {self.settings.timeout:g} s."
            for input_id in late:
                self._mark((now, reason, input_id, container.id))
                if self._release(now, container.id, input_id):
                    item = self.inputs[input_id]
                    if not self._plan_retry(now, item):
                        actions.append(self._end(now, item, Outcome.TIMEOUT, f"The input {reason}"))
            container.state = ContainerState.DRAINING
            container.polling = 0
            actions.append(Kill(container.id, f"An input {reason}"))
            actions += self.remove(now, container.id, "Another input of the container timed out.", blame_inputs=False)
        return actions

    def _wait_first(self, input_id: str) -> None:
        self.waiting[input_id] = None
        self.waiting.move_to_end(input_id, last=False)
