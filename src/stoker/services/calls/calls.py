"""Calls: inputs in, outputs out. An accepted input is stored before it is acknowledged, an output before anybody sees it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa
import structlog

from stoker.aio.jobs import Jobs
from stoker.aio.waiting import settled
from stoker.batches import batches
from stoker.core.actions import Finish, Outcome
from stoker.core.books import PooledInput
from stoker.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from stoker.ids import content_id, new_id
from stoker.services.calls.call_graph import CallGraph, call_graph
from stoker.services.calls.call_records import WEB, Call, Input, Output, call_row, input_rows, new_inputs
from stoker.services.calls.output_storage import OutputStorage
from stoker.services.functions.wire import Wire
from stoker.services.pools.scheduler import Scheduler
from stoker.store import tables
from stoker.store.database import Change, Database

_ANSWER_BYTES = 32 << 20  # outputs are handed out in answers of about this size
# Outputs of a running map are gathered for a step (in seconds), and as long as they are few and each step brings more, for up to so many
# seconds: an answer takes client and server more than a millisecond of processor time, but the client is slower with very many at once.
_GATHER_STEP, _GATHER_SECONDS, _FEW_OUTPUTS, _GATHER_OUTPUTS = 0.02, 0.1, 16, 200
_MOST_IN_MEMORY = 1000  # waiting inputs of a function after which spawned calls are kept in the database only
_FINISHED_AT_ONCE = 500
_PATIENCE = 10.0  # seconds for which the end of the server waits for results that are being stored
_FORGET_AFTER = 120.0  # seconds a finished call stays in memory
_NO_METHODS: Mapping[int, str] = {}
_log = structlog.get_logger(__name__)


class Report(NamedTuple):
    """What a container says of one input. `failed`: the user's code raised, so a retry may be due."""

    input_id: str
    result: bytes
    data_format: int
    status: int
    failed: bool
    started_at: float
    created_at: float


@dataclass(frozen=True)
class Limits:
    """How many inputs one function may have. `max_pending`: that wait, of calls whose caller waits; `max_pending_spawned`: of spawned calls;
    `max_inputs`: that wait or run."""

    max_pending: int = 2_000
    max_inputs: int = 25_000
    max_pending_spawned: int = 1_000_000


class Calls:
    """All calls that are under way or have just ended; older ones are read from the database. Made by the composition root; callers and
    containers reach it by RPC, and the scheduler tells it of inputs that end without a result."""

    def __init__(self, database: Database, scheduler: Scheduler, wire: Wire, limits: Limits) -> None:
        self._database = database
        self._scheduler = scheduler
        self._wire = wire
        self._limits = limits
        self._calls: dict[str, Call] = {}
        self._inputs: dict[str, Input] = {}  # unfinished; those of a long queue of spawned calls stay in the database
        self._jobs = Jobs("calls")
        self._output_storage = OutputStorage(database, self._jobs, call_of=self._call, show=self._show)
        self.on_call_finished: Callable[[Call], None] = lambda call: None
        """Called when every input of a call has an output, and the last one is stored. An error is logged."""
        scheduler.on_finish = self._finish_later

    def load(self) -> None:
        """Takes up the inputs that were unfinished when the server stopped."""
        inputs, outputs, calls = tables.inputs, tables.outputs, tables.calls
        query = (
            sa.select(inputs.c.id, inputs.c.call_id, calls.c.function_id, calls.c.cancelled)
            .select_from(inputs.join(calls, calls.c.id == inputs.c.call_id))
            .outerjoin(outputs, outputs.c.input_id == inputs.c.id)
            .where(outputs.c.input_id.is_(None))
            .order_by(inputs.c.created_at, inputs.c.idx)
        )
        by_function: dict[str, list[PooledInput]] = {}
        # The server stopped before their ends were stored, and somebody may wait for those.
        cancelled: list[Finish] = []
        with self._database.read() as connection:
            for row in connection.execute(query):
                if row.cancelled:
                    cancelled.append(_cancelled(row.id, row.call_id))
                else:
                    by_function.setdefault(row.function_id, []).append(PooledInput(row.id, row.call_id))
        if cancelled:
            self._finish_later(cancelled, None)
        for function_id, pooled in by_function.items():
            self._scheduler.add(function_id, pooled)

    async def close(self) -> None:
        """Waits for results that are being stored."""
        await self._jobs.close(patience=_PATIENCE)

    # The caller's side

    async def start(
        self,
        function_id: str,
        kind: str,
        invocation: int,
        parent_input_id: str,
        items: Sequence[tuple[int, bytes]],
        *,
        spawned: bool,
        key: str = "",
        repeated: bool = False,
        task_id: str = "",
        caller_app_id: str = "",
        methods: Mapping[int, str] = _NO_METHODS,
    ) -> tuple[Call, list[Input]]:
        """A new call with its first inputs, given as (idx, payload). methods: of a class, by idx of the inputs that are for one.

        `repeated` with the `key` of an earlier request gives the call made then, also by an earlier server on the same data. task_id,
        caller_app_id: of the container that makes it, if one does. Raises NotFound, FailedPrecondition, ResourceExhausted, Damaged."""
        function = self._scheduler.check(function_id)
        call_id = content_id("fc", key.encode()) if key else new_id("fc")
        known = (self._calls.get(call_id) or (self._taken_up(call_id) if repeated else None)) if key else None
        if known is not None:
            return known, new_inputs(call_id, items, methods)
        if kind != WEB:
            await self._scheduler.check_image(function)
        self._check_room(function_id, len(items), spawned)
        created_at = time.time()
        call = Call(call_id, function_id, function.app_id, kind, invocation, created_at, parent_input_id, caller_app_id)
        call.callers = self._callers(parent_input_id, task_id)
        inputs = new_inputs(call.id, items, methods)
        if kind != WEB:
            with self._unanswered(call.id):
                await self._database.append((tables.calls, [call_row(call)]), input_rows(inputs))
        self._calls[call.id] = call
        self._accept(call, inputs, may_park=spawned and kind == "unary")
        return call, inputs

    async def put(
        self,
        call_id: str,
        items: Sequence[tuple[int, bytes]],
        *,
        spawned: bool = False,
        methods: Mapping[int, str] = _NO_METHODS,
    ) -> list[Input]:
        """More inputs for a call, as `start` takes them."""
        call = self._call(call_id)
        if call.cancelled:
            raise InvalidArgument(f"The call {call_id} was cancelled; it takes no more inputs.")
        self._scheduler.check(call.function_id)
        inputs = new_inputs(call.id, items, methods)
        new = [i for i in inputs if i.idx not in call.indexes]  # a request repeated over a restart brings known ones
        self._check_room(call.function_id, len(new), spawned)
        with self._unanswered(call.id):
            await self._database.append(input_rows(new))
        self._accept(call, new)
        return inputs

    async def outputs(
        self,
        call_id: str,
        after: int,
        timeout: float,
        indexes: tuple[int, int] | None = None,
        max_values: int = 0,
        task_id: str = "",
    ) -> tuple[list[Output], int]:
        """Outputs with seq > `after` (and idx within `indexes`, ends included), as soon as there are any, waiting up to `timeout` seconds;
        and the number of inputs not finished. task_id: the container that asks, if one does. Raises NotFound."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            call = self._call(call_id)
            found = _pick(call.outputs, after, indexes, max_values)
            left = deadline - loop.time()
            if found and await self._gather(call, found):
                found = _pick(call.outputs, after, indexes, max_values)
            if found or left <= 0:
                call.answered_at = loop.time()
                return found, len(call.open_inputs)
            if call.outputs and not call.open_inputs and call.kind == "unary":
                return [], 0
            with self._scheduler.blocked(task_id, call.parent_input_id or call.id, call):
                await call.news.wait(left)

    async def _gather(self, call: Call, found: list[Output]) -> bool:
        """In the steady flow of a map, waits a moment for more outputs, so that one answer carries many; True when it has waited.

        Whoever has had no answer for a moment gets the first output at once, and the last outputs wait for nothing."""
        if call.kind != "map" or len(found) >= _GATHER_OUTPUTS:
            return False
        loop = asyncio.get_running_loop()
        few = len(call.outputs) - len(found) + _FEW_OUTPUTS
        until, last, stored = call.answered_at + _GATHER_STEP, call.answered_at + _GATHER_SECONDS, -1
        while call.open_inputs and stored < len(call.outputs) and loop.time() < until:
            stored = len(call.outputs)
            call.over = loop.create_future()
            await settled(call.over, until - loop.time())
            until = min(loop.time() + _GATHER_STEP, last) if len(call.outputs) < few else 0.0
        return stored >= 0

    async def cancel(self, call_id: str, *, terminate_containers: bool) -> None:
        """Ends all unfinished inputs of a call."""
        call = self._call(call_id)

        def end(_: object) -> None:
            call.cancelled = True
            self._scheduler.cancel(call.function_id, list(call.open_inputs), terminate_containers=terminate_containers)

        if call.kind == WEB:
            end(None)
        else:
            statement = sa.update(tables.calls).where(tables.calls.c.id == call_id).values(cancelled=True)
            await self._database.write(Change(lambda connection: connection.execute(statement), end))

    def get(self, call_id: str) -> Call:
        """Raises NotFound."""
        return self._call(call_id)

    def graph(self, call_id: str) -> CallGraph:
        """The calls around a call. Raises NotFound."""
        return call_graph(self._database, call_id)

    def find_input(self, input_id: str) -> Input | None:
        """An unfinished input, from memory or from the database."""
        item = self._inputs.get(input_id)
        if item is None:
            with self._database.read() as connection:
                inputs = tables.inputs
                row = connection.execute(sa.select(inputs.c.call_id).where(inputs.c.id == input_id)).first()
            item = self._call(row.call_id).open_inputs.get(input_id) if row is not None else None
        return item

    async def cancel_app(self, app_id: str) -> None:
        """Ends all unfinished calls of an app that stops: at once, for the app is over whatever the database says of its calls."""
        for call in self._calls.values():
            call.cancelled = call.cancelled or call.app_id == app_id
        self._scheduler.cancel_app(app_id)
        statement = sa.update(tables.calls).where(tables.calls.c.app_id == app_id).values(cancelled=True)
        note = partial(sa.Connection.execute, statement=statement)
        self._jobs.insist(f"note that the calls of {app_id} are over", lambda: self._database.write(note))

    def unfinished(self, app_id: str) -> bool:
        return self._scheduler.busy(app_id)

    # The container's side

    async def report(self, task_id: str, reports: Sequence[Report]) -> None:
        """Results from a container. Returns when they are stored; stale and repeated ones are ignored."""
        fresh: list[Output] = []
        repeated: set[asyncio.Future[None]] = set()
        for report in reports:
            saving = self._output_storage.saving(report.input_id)
            if saving is not None:
                repeated.add(saving)
                continue
            known = self._output_storage.unsaved(report.input_id)
            if known is not None:
                fresh.append(known)
                continue
            item = self._inputs.get(report.input_id)
            if self._scheduler.report(task_id, report.input_id, failed=report.failed) and item is not None:
                fresh.append(
                    Output(
                        input_id=item.id,
                        call_id=item.call_id,
                        idx=item.idx,
                        seq=0,
                        result=report.result,
                        data_format=report.data_format,
                        status=report.status,
                        task_id=task_id,
                        started_at=report.started_at,
                        created_at=report.created_at,
                    )
                )
        try:
            await self._output_storage.save(fresh)
        except Exception:
            self._output_storage.save_later()
            raise
        for saving in repeated:
            await asyncio.shield(saving)

    def running(self, task_id: str) -> Set[str]:
        """The ids of the inputs that are under way in a container."""
        return self._scheduler.running(task_id)

    # How it is done

    def _callers(self, parent_input_id: str, task_id: str) -> frozenset[str]:
        parent = self._inputs.get(parent_input_id)
        call = self._calls.get(parent.call_id) if parent is not None else None
        if call is not None:
            return call.callers | {call.function_id}
        # A thread that the user's code started does not know whose it is.
        function_id = self._scheduler.function_of(task_id)
        return frozenset((function_id,) if function_id else ())

    def _accept(self, call: Call, inputs: list[Input], *, may_park: bool = False) -> None:
        if may_park and self._scheduler.load_of(call.function_id)[0] > _MOST_IN_MEMORY:
            # A long queue: what nobody runs or waits for yet is read again when its turn comes.
            self._calls.pop(call.id, None)
            self._scheduler.add(call.function_id, [PooledInput(i.id, call.id) for i in inputs])
            return
        for item in inputs:
            call.open_inputs[item.id] = item
            call.indexes.add(item.idx)
            self._inputs[item.id] = item
        call.total += len(inputs)
        if call.cancelled:  # while they were stored
            self._finish_later([_cancelled(i.id, call.id) for i in inputs], None)
        else:
            self._scheduler.add(call.function_id, [PooledInput(i.id, call.id) for i in inputs])

    def _check_room(self, function_id: str, count: int, spawned: bool) -> None:
        pending, total = self._scheduler.load_of(function_id)
        if spawned:
            if pending + count > self._limits.max_pending_spawned:
                raise ResourceExhausted(
                    f"{pending} inputs of this function are waiting, the most is {self._limits.max_pending_spawned}."
                )
            return
        if pending and pending + count > self._limits.max_pending:
            raise ResourceExhausted(
                f"{pending} inputs of this function are waiting and the most is {self._limits.max_pending}; try again when some are done.",
                0.25,
            )
        if total and total + count > self._limits.max_inputs:
            raise ResourceExhausted(
                f"{total} inputs of this function are under way and the most is {self._limits.max_inputs}.", 0.25
            )

    def _show(self, output: Output) -> None:
        """An output is stored: its caller may have it."""
        call = self._call(output.call_id)
        call.open_inputs.pop(output.input_id, None)
        self._inputs.pop(output.input_id, None)
        call.outputs.append(output)
        call.news.ring()
        if not call.open_inputs:
            self._over(call)

    def _finish_later(self, finishes: Iterable[Finish], given_result: tuple[bytes, int] | None) -> None:
        """Inputs that end without a result from a container."""
        self._jobs.insist("end inputs", partial(self._finish_all, list(finishes), given_result))

    async def _finish_all(self, finishes: list[Finish], given_result: tuple[bytes, int] | None) -> None:
        for batch in batches(finishes, _FINISHED_AT_ONCE):
            outputs = []
            for finish in batch:
                if not finish.call_id:
                    continue  # a request to a server, which is no call
                if self._output_storage.has(finish.input_id):
                    continue
                item = self.find_input(finish.input_id)
                if item is None:
                    continue
                result, status = given_result or self._wire.made_result(finish.outcome, finish.detail)
                now = time.time()
                outputs.append(Output(item.id, item.call_id, item.idx, 0, result, 0, status, "", now, now))
            try:
                await self._output_storage.save(outputs)
            except Exception:
                await asyncio.shield(self._output_storage.save_later())

    def _over(self, call: Call) -> None:
        if call.over is not None and not call.over.done():
            call.over.set_result(None)
        try:
            self.on_call_finished(call)
        except Exception:  # the output is stored, whoever else wants to hear of it
            _log.exception("the end of a call was not heard everywhere", call=call.id)
        if call.kind == WEB:
            self._calls.pop(call.id, None)
        else:
            self._forget_later(call)

    def _forget_later(self, call: Call) -> None:
        asyncio.get_running_loop().call_later(_FORGET_AFTER, self._forget, call)

    def _forget(self, call: Call) -> None:
        if call.open_inputs or self._calls.get(call.id) is not call:
            return  # its end comes yet, or it was forgotten and read again meanwhile
        if call.news:
            self._forget_later(call)
        else:
            del self._calls[call.id]

    @contextlib.contextmanager
    def _unanswered(self, call_id: str) -> Iterator[None]:
        """Rows of a call are being stored. When the answer is lost they may be there, and are looked for when the database is back."""
        try:
            yield
        except Unavailable:
            self._jobs.insist(f"look for {call_id}", partial(self._look_for, call_id))
            raise

    async def _look_for(self, call_id: str) -> None:
        self._taken_up(call_id)

    def _taken_up(self, call_id: str) -> Call | None:
        """A call, if it was ever stored; what is stored of it and nobody knows is run from now on."""
        known = self._calls.get(call_id)
        try:
            stored = self._read(call_id)
        except NotFound:
            return known
        if known is not None:
            self._accept(known, [i for i in stored.open_inputs.values() if i.idx not in known.indexes])
            return known
        call = self._call(call_id)
        unknown = [i for i in call.open_inputs if not self._scheduler.knows(call.function_id, i)]
        lost = [i for i in unknown if not self._output_storage.has(i)]
        if call.cancelled:
            self._finish_later([_cancelled(i, call.id) for i in lost], None)
        else:
            self._scheduler.add(call.function_id, [PooledInput(i, call.id) for i in lost])
        return call

    def _call(self, call_id: str) -> Call:
        call = self._calls.get(call_id)
        if call is None:
            call = self._read(call_id)
            self._calls[call_id] = call
            if not call.open_inputs:
                self._forget_later(call)
        return call

    def _read(self, call_id: str) -> Call:
        inputs, outputs, calls = tables.inputs, tables.outputs, tables.calls
        with self._database.read() as connection:
            row = connection.execute(sa.select(calls).where(calls.c.id == call_id)).first()
            if row is None:
                raise NotFound(f"Function call {call_id!r} not found; results are kept for some days only.")
            done = connection.execute(
                sa.select(outputs).where(outputs.c.call_id == call_id).order_by(outputs.c.seq)
            ).all()
            all_inputs = connection.execute(sa.select(inputs).where(inputs.c.call_id == call_id)).all()
        call = Call(**row._asdict())
        call.outputs = [Output(**o._asdict()) for o in done]
        call.last_seq = max((o.seq for o in call.outputs), default=0)
        finished = {o.input_id for o in call.outputs}
        call.total = len(all_inputs)
        call.indexes = {i.idx for i in all_inputs}
        for i in all_inputs:
            if i.id not in finished:
                item = Input(i.id, i.call_id, i.idx, i.payload, i.method)
                call.open_inputs[item.id] = self._inputs.setdefault(item.id, item)
        return call


def _cancelled(input_id: str, call_id: str) -> Finish:
    return Finish(input_id, call_id, Outcome.CANCELLED, "The input was cancelled.")


def _pick(outputs: list[Output], after: int, indexes: tuple[int, int] | None, max_values: int) -> list[Output]:
    """The next outputs that fit into one answer; at least one if there is any."""
    picked: list[Output] = []
    size = 0
    # Outputs are almost always stored in the order of their seq; start where `after` should be.
    start = after if after <= len(outputs) and (after == 0 or outputs[after - 1].seq == after) else 0
    for output in outputs[start:]:
        if output.seq <= after or (indexes is not None and not indexes[0] <= output.idx <= indexes[1]):
            continue
        if picked and (size + len(output.result) > _ANSWER_BYTES or (max_values and len(picked) >= max_values)):
            break
        picked.append(output)
        size += len(output.result)
    return picked
