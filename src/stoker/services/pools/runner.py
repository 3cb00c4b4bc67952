"""The pool of one function come alive: executes the actions of `core.pool`, starts and stops containers, keeps the time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog

from stoker.aio.jobs import Jobs
from stoker.aio.waiting import settled
from stoker.core.actions import Action, CancelRunning, Deliver, Dismiss, Finish, Kill, Outcome
from stoker.core.books import ContainerState, PooledInput
from stoker.core.crashloop import CrashLoop
from stoker.core.pool import Pool
from stoker.core.rollout import Rollout
from stoker.core.scaler import Decision, Scaler
from stoker.engine.base import Never, NotNow
from stoker.errors import Damaged, FailedPrecondition, ImageBuildFailed, InvalidArgument, NotFound, StokerError
from stoker.nodes.endings import Exit, ExitKind
from stoker.services.containers.endings import ending, sentence
from stoker.services.containers.launching import Launcher
from stoker.services.containers.task import Delivery, Task
from stoker.services.functions.spec import Function
from stoker.services.pools.notices import Notices
from stoker.services.pools.pool_faults import tell_lost, tell_returned

_KILLED = 128 + 9  # exit code
# Errors that another try would meet again.
_LASTING = (NotFound, InvalidArgument, FailedPrecondition, Damaged, ImageBuildFailed)
_GRACE = 30.0  # seconds a dismissed container may take for its exit hooks
_HOLD_POLL = 45.0  # seconds a poll is held open
_LOOK_FOR_ROOM = 5.0  # seconds
_LOOK_AGAIN = 0.005  # seconds between looks at the number of containers
_LOOK_AGAIN_BUSY = 0.05  # while inputs wait
_log = structlog.get_logger(__name__)

FinishSink = Callable[[Iterable[Finish], "tuple[bytes, int] | None"], None]


class Runner:
    """All of one function at run time. Every method is called from the event loop; nothing here blocks."""

    def __init__(
        self,
        function: Function,
        pool: Pool,
        launcher: Launcher,
        on_finish: FinishSink,
        by_task: dict[str, Runner],
        is_deployed: Callable[[], bool],
        make_room: Callable[[Runner, NotNow], None] = lambda runner, why: None,
    ) -> None:
        """by_task: an index shared by all runners, in which this one keeps its containers. make_room: asks others to end containers."""
        self.function = function
        self.pool = pool
        self.tasks: dict[str, Task] = {}
        self.taken = 0  # inputs that containers got
        self.awaited_by: Counter[str] = Counter()  # containers, of whatever function, that wait for results of this one
        self.starved = False  # a container could not be placed; try again when something is released
        self._launcher = launcher
        self._notices = Notices(launcher.say)
        self._by_task = by_task
        self._is_deployed = is_deployed
        self._make_room = make_room
        self._on_finish = on_finish
        self._polls: dict[str, asyncio.Future[Delivery]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._crash_loop = CrashLoop()
        self._scaler = Scaler()
        self._rollout = Rollout()
        self._stopped = False
        self._rescaling = False
        self._looked_at = self._looks_for_room_at = 0.0
        self._jobs = Jobs("runner")

    @property
    def called_as(self) -> str:
        """The id of the function that callers mean; another one during a canary."""
        return self.function.twin_of or self.function.id

    # Inputs

    def add(self, inputs: Sequence[PooledInput]) -> None:
        if self._stopped:
            self._on_finish([Finish(i.id, i.call_id, Outcome.CANCELLED, "The app was stopped.") for i in inputs], None)
            return
        self._apply(self.pool.add(_now(), inputs))
        self.rescale()

    def take(self, item: PooledInput, affinity: bytes = b"") -> Task | None:
        """Runs an input in a ready container with room, without waiting for its poll; None, and nothing has changed, when there is none.
        affinity: see `Pool.take`."""
        container_id = None if self._stopped else self.pool.take(_now(), item, affinity)
        if container_id is None:
            return None
        self.taken += 1
        self.rescale()
        return self.tasks[container_id]

    def report(self, task_id: str, input_id: str, *, failed: bool) -> bool:
        """A container reports an output; True when it is the output of that input."""
        now = _now()
        container = self.pool.containers.get(task_id)
        if container is not None and input_id in container.running:
            self._scaler.ran(now - container.running[input_id])
        accepted, actions = (self.pool.fail if failed else self.pool.succeed)(now, task_id, input_id)
        self._apply(actions)
        if container is not None and container.state is ContainerState.DRAINING and not container.running:
            self.drain(task_id)  # that was its last input: it has a while for its exit hooks
        self.rescale()
        return accepted

    def cancel(self, input_ids: Sequence[str], *, terminate_containers: bool) -> None:
        victims = [c.id for c in self.pool.containers.values() if any(i in c.running for i in input_ids)]
        self._apply(self.pool.cancel(_now(), input_ids))
        if terminate_containers:
            for container_id in victims:
                self._kill(container_id, "Its call was cancelled with terminate_containers.")
        self.rescale()

    # Containers

    async def next_inputs(self, task_id: str, capacity: int) -> Delivery:
        """Answers a container's poll: waits until there are inputs for it, it shall exit, or the poll was held long enough."""
        if task_id not in self.pool.containers:
            return Delivery(exit=True)
        previous = self._polls.pop(task_id, None)
        if previous is not None and not previous.done():
            previous.set_result(Delivery())  # the container asks again: the older poll is dead
        poll: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._polls[task_id] = poll
        container = self.pool.containers[task_id]
        if container.state is ContainerState.STARTING:
            self._scaler.started(_now() - container.started_at)
            self._crash_loop.succeeded()
            self.tasks[task_id].started_at = time.time()
            self._launcher.ready(self.tasks[task_id])
            if container.definition_id == self.function.active.id:
                self._end_rollout()
        self._apply(self.pool.poll(_now(), task_id, capacity))
        self.rescale()
        try:
            await settled(poll, _HOLD_POLL)
        except asyncio.CancelledError:
            if poll.done():  # answered in the very moment in which the container's connection broke
                undelivered = [input_id for input_id, _ in poll.result().inputs]
                self._apply(self.pool.give_back(_now(), task_id, undelivered))
                tell_returned(self.pool, undelivered)
            raise
        finally:
            if self._polls.get(task_id) is poll:
                del self._polls[task_id]
                self.pool.unpoll(task_id)
        return poll.result() if poll.done() else Delivery()

    async def heartbeat(self, task_id: str, hold: float) -> list[str]:
        """Inputs the container must cancel; waits for some up to `hold` seconds."""
        task = self.tasks.get(task_id)
        if task is None:
            return []
        if not task.cancellations:
            task.heartbeat = asyncio.get_running_loop().create_future()
            await settled(task.heartbeat, hold)
            task.heartbeat = None
        cancellations, task.cancellations = task.cancellations, []
        return cancellations

    def block(self, task_id: str, waiter: str) -> None:
        """Something in a container begins to wait for the result of another call (see `Pool.block`)."""
        self.pool.block(task_id, waiter)
        if self.pool.waiting:
            self.rescale()

    def init_failed(self, task_id: str, result: bytes, status: int) -> None:
        """The container says that the user's code could not be imported or entered. It ends by itself after this."""
        task = self.tasks.get(task_id)
        if task is not None:
            task.init_result = (result, status)

    def drain(self, task_id: str) -> None:
        task = self.tasks.get(task_id)
        if task is None or task.stopping:
            return
        task.stopping = True
        self._apply(self.pool.drain(task_id))
        container = self.pool.containers.get(task_id)
        grace = _GRACE + (self.pool.settings.timeout if container and container.running else 0.0)
        asyncio.get_running_loop().call_later(grace, self._kill, task_id, "It did not exit in time.")
        if container is not None and not container.ready_at:
            self._kill(task_id, "It was still starting.")

    def give_way(self, task_id: str, to: str) -> None:
        """A container must end, after what it runs, because others wait for what it holds."""
        self._launcher.say(
            self.tasks[task_id], f"The container ends to make room for {to}, which waits for resources.\n"
        )
        self.drain(task_id)

    def preempt(self, task_id: str, reason: str) -> None:
        """A container must end now. Its inputs run elsewhere at once; its exit hooks have a while."""
        task, container = self.tasks.get(task_id), self.pool.containers.get(task_id)
        if task is None or not task.is_launched or container is None or not container.ready_at:
            self._kill(task_id, reason)
            return
        task.stopping, task.stop_reason = True, task.stop_reason or reason
        self._answer(task_id, Delivery(exit=True))
        self._apply(self.pool.remove(_now(), task_id, reason, blame_inputs=False))
        self._jobs.start(f"interrupt {task_id}", task.signal(signal.SIGINT))
        asyncio.get_running_loop().call_later(_GRACE, self._kill, task_id, reason)

    def kill(self, task_id: str, reason: str) -> None:
        self._kill(task_id, reason)

    def redefine(self) -> None:
        """New containers run the new definition. Those of the old one finish what they run; where there is more to do, once a new one is up."""
        self._apply(self.pool.redefine(_now(), self.function.active.spec.pool))
        self._crash_loop.succeeded()
        for container_id in self._rollout.begin(_now(), self.pool, self.function.active.id):
            self.drain(container_id)
        self.rescale()

    def try_again(self) -> None:
        """Something may have become free: a function that could not be placed tries anew."""
        if self.starved:
            self.starved = False
            self.rescale()

    async def stop(self, *, drain: bool) -> None:
        """Ends all containers and waits for their end."""
        self._stopped = True
        self._launcher.forget(self.function.id)
        if self._timer is not None:
            self._timer.cancel()
        for task_id, task in list(self.tasks.items()):
            container = self.pool.containers.get(task_id)
            idle = container is not None and container.state is ContainerState.READY and not container.running
            if drain or idle:
                self.drain(task_id)  # lets exit hooks run
            else:
                task.stopping = True
                self._kill(task_id, "The app was stopped.")
        jobs = [t.job for t in self.tasks.values() if t.job is not None]
        if jobs:
            await asyncio.wait(jobs)

    def rescale(self) -> None:
        """Soon starts and stops containers as the autoscaler's rule wants it. The first of many events in a row causes a look at once, the
        others together one a little later; what waits for its batch to fill is looked at with every event, for the alarm must be exact."""
        if self._rescaling:
            return
        self._rescaling = True
        loop = asyncio.get_running_loop()
        wait = self._looked_at + (_LOOK_AGAIN_BUSY if self.pool.backlog else _LOOK_AGAIN) - _now()
        if wait <= 0 or self.pool.settings.batch_max_size > 1:
            loop.call_soon(self._rescale)
        else:
            loop.call_later(wait, self._rescale)

    # How it is done

    def _rescale(self) -> None:
        self._rescaling = False
        if self._stopped:
            return
        now = self._looked_at = _now()
        slots = self._launcher.start_slots()
        if self.function.active.spec.resources.gpus:
            slots = max(slots, 1)  # no GPU stays idle for busy processors
        decision = self._scaler.decide(now, self.pool, self.function.scaling, slots)
        if self.starved and not decision.start and not self._rollout.under_way:
            self.starved = False
            self._launcher.withdraw(self.function.id)
        if now >= self._crash_loop.not_before and not self.starved:
            for _ in range(self._rollout.starts(self.pool, self.function.active.id, decision.start)):
                self._start(overcommit=slots > 0 or not decision.extra)
        if not self._rollout.under_way:
            for container_id in decision.drain:
                self.drain(container_id)
        self._notices.stuck(now, decision.stuck, self.pool, next(iter(self.tasks.values()), None))
        self._set_alarm(now, decision)

    def _apply(self, actions: Iterable[Action]) -> None:
        finishes: list[Finish] = []
        for action in actions:
            if isinstance(action, Deliver):
                now = _now()
                for input_id, _ in action.inputs:
                    self._launcher.delivered(now - self.pool.inputs[input_id].waiting_since)
                self.taken += len(action.inputs)
                self._answer(action.container_id, Delivery(action.inputs, final=action.final))
            elif isinstance(action, Dismiss):
                self._answer(action.container_id, Delivery(exit=True))
            elif isinstance(action, Kill):
                self._kill(action.container_id, action.reason)
            elif isinstance(action, CancelRunning):
                self._tell_cancelled(action)
            else:
                finishes.append(action)
        if finishes:
            tell_lost(self.pool, finishes)
            self._on_finish(finishes, None)

    def _answer(self, container_id: str, delivery: Delivery) -> None:
        poll = self._polls.pop(container_id, None)
        if poll is not None and not poll.done():
            poll.set_result(delivery)

    def _tell_cancelled(self, action: CancelRunning) -> None:
        task = self.tasks.get(action.container_id)
        if task is None:
            return
        task.cancellations += action.input_ids
        if task.heartbeat is not None and not task.heartbeat.done():
            task.heartbeat.set_result(None)

    def _kill(self, container_id: str, reason: str) -> None:
        task = self.tasks.get(container_id)
        if task is None:
            return
        task.stopping = True
        task.stop_reason = task.stop_reason or reason
        self._end(task)

    def _end(self, task: Task) -> None:
        if task.is_launched:
            self._jobs.insist(f"kill {task.id}", task.kill)
        elif task.job is not None and task.launching:
            task.launching = False
            task.job.cancel()

    def _start(self, *, overcommit: bool = True) -> None:
        definition = self.function.active
        task_id = self._launcher.new_task_id(self.function.id)
        task = Task(
            task_id,
            self.function.id,
            self.function.app_id,
            definition.id,
            enqueued_at=time.time(),
            awaited_by=self.awaited_by.keys(),
            overcommit=overcommit,
        )
        self.tasks[task.id] = task
        self._by_task[task.id] = self
        self.pool.launch(_now(), task.id, definition.id)
        task.job = self._jobs.start(f"life of {task.id}", self._live(task))

    async def _live(self, task: Task) -> None:
        """The whole life of one container."""
        ended, hopeless = Exit(ExitKind.FAILED, 1, ""), False
        try:
            if task.stopping:  # before it began
                raise asyncio.CancelledError
            task.launching = True
            refusal = await self._launcher.launch(self.function, task)
            task.launching = False
            if refusal is not None:
                self._not_placed(task, refusal)
                return
            self._notices.placed()
            if task.stopping or task.stop_reason:
                self._jobs.insist(f"kill {task.id}", task.kill)
            ended = await self._launcher.end_of(task)
        except asyncio.CancelledError:
            ended = Exit(ExitKind.KILLED, 137, "")
        except StokerError as error:
            ended, hopeless = Exit(ExitKind.FAILED, 1, str(error)), isinstance(error, _LASTING)
        except Exception as error:
            _log.exception("container failed to start", task=task.id)
            ended = Exit(ExitKind.FAILED, 1, f"{type(error).__name__}: {error}")
        finally:
            task.launching = False
            failed = task.init_result is not None
            task.ending = ending(ended, stopping=task.stopping, init_failed=failed)
            task.detail = sentence(ended, stop_reason=task.stop_reason, init_failed=failed)
            try:
                await self._launcher.clean_up(task)
            except Exception:  # its inputs must go back all the same
                _log.exception("not everything of a container was given back", task=task.id)
            self.tasks.pop(task.id, None)
            self._by_task.pop(task.id, None)
        self._ended(task, ended, hopeless=hopeless)

    def _not_placed(self, task: Task, why: NotNow | Never) -> None:
        self._apply(self.pool.remove(_now(), task.id, "It could not be placed.", blame_inputs=False))
        if isinstance(why, Never):
            self._apply(self.pool.give_up(why.reason))
            return
        if self._rollout.under_way:
            self._end_rollout()  # there is no room beside the old containers
        self._notices.not_placed(why, task)
        self.starved = True
        self._make_room(self, why)
        if _now() >= self._looks_for_room_at:
            # Room also appears without a release of ours, such as when somebody frees disk space.
            self._looks_for_room_at = _now() + _LOOK_FOR_ROOM
            asyncio.get_running_loop().call_later(_LOOK_FOR_ROOM, self.try_again)

    def _ended(self, task: Task, ended: Exit, *, hopeless: bool) -> None:
        now = _now()
        container = self.pool.containers.get(task.id)
        was_ready = container is not None and container.state is not ContainerState.STARTING
        reason = task.detail
        self._answer(task.id, Delivery(exit=True))
        expected = task.stopping or (container is not None and container.state is ContainerState.DRAINING)
        self._apply(self.pool.remove(now, task.id, reason, blame_inputs=not task.stopping))
        if not expected and not self._stopped:
            if task.init_result is None:
                self._launcher.say(task, reason + "\n")
            blameless = task.init_result is None and not was_ready and self._launcher.blames_snapshot(task, reason)
            if not was_ready and not blameless:
                self._start_failed(now, task, ended, hopeless=hopeless)
        self.rescale()

    def _end_rollout(self) -> None:
        for container_id in self._rollout.end():
            self.drain(container_id)

    def _start_failed(self, now: float, task: Task, ended: Exit, *, hopeless: bool) -> None:
        """A container ended before it took inputs. What the user's code said is final at once, and so is what another try cannot change
        (`hopeless`); other failures are after some tries."""
        reason = task.detail
        self._crash_loop.failed(now, killed=ended.kind is ExitKind.EXITED and ended.code == _KILLED)
        if self._rollout.under_way:
            self._launcher.say(task, "The new version did not start; containers of the last one go on.\n")
            if not self.pool.inputs:
                self._end_rollout()
            return
        ready = [c for c in self.pool.containers.values() if c.state is ContainerState.READY]
        if not all(self.pool.blocked(c) for c in ready):
            return  # others came up and serve those that wait
        if task.init_result is not None:
            finishes = [a for a in self.pool.fail_waiting(now, reason) if isinstance(a, Finish)]
            self._on_finish(finishes, task.init_result)
        elif hopeless or self._crash_loop.hopeless(deployed=self._is_deployed()):
            words = self._launcher.last_words(task)
            detail = f"{reason} Its last output:\n{words}" if words else reason
            self._apply(self.pool.fail_waiting(now, detail))

    def _set_alarm(self, now: float, decision: Decision) -> None:
        times = [self.pool.next_tick(), decision.look_at]
        if (decision.start or self._rollout.under_way) and self._crash_loop.not_before > now:
            times.append(self._crash_loop.not_before)
        startup = self.function.active.spec.startup_timeout
        times += [
            c.started_at + startup
            for c in self.pool.containers.values()
            if c.state is ContainerState.STARTING and not self.tasks[c.id].stop_reason
        ]
        due = [t for t in times if t is not None]
        self._set_timer(min(due) if due else None, now)

    def _set_timer(self, due: float | None, now: float) -> None:
        """An alarm that is set already may stay when it comes earlier: it then looks again."""
        if self._timer is not None:
            if due is not None and self._timer_due <= due + 0.001:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_due = due
            self._timer = asyncio.get_running_loop().call_later(max(0.001, due - now), self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        now = _now()
        startup = self.function.active.spec.startup_timeout
        for container in list(self.pool.containers.values()):
            if container.state is ContainerState.STARTING and now - container.started_at >= startup:
                self._fail_slow_start(container.id, startup)
        self._apply(self.pool.tick(now))
        self.rescale()

    def _fail_slow_start(self, container_id: str, startup: float) -> None:
        task = self.tasks.get(container_id)
        if task is not None and not task.stop_reason:
            task.stop_reason = f"It did not start within its start-up timeout of {startup:g} s."
            self._end(task)


def _now() -> float:
    return time.monotonic()
