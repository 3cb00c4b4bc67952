"""`Image.run_function`: a function of the client's runs once in a container of its own, and the files it wrote become a layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from stoker.aio.cancelling import finished
from stoker.errors import FailedPrecondition, ImageBuildFailed
from stoker.services.calls.call_records import Output
from stoker.services.calls.calls import Calls
from stoker.services.functions.functions import Functions
from stoker.services.images.images import FunctionRun
from stoker.services.pools.scheduler import Scheduler
from stoker.services.telemetry.logs import LogFilter, Logs

_LOOK_SECONDS = 50.0


class Endings(Protocol):
    """Reads results of calls; implemented by `protocol/web.py`."""

    def ending(self, result: bytes) -> tuple[str, str]: ...


class FunctionBuilds:
    """Implements `services.images.images.FunctionRunner` with a call like any other. Made by the composition root; asked by the image service."""

    def __init__(
        self,
        *,
        functions: Functions,
        calls: Calls,
        scheduler: Scheduler,
        logs: Logs,
        endings: Endings,
    ) -> None:
        self._functions = functions
        self._calls = calls
        self._scheduler = scheduler
        self._logs = logs
        self._endings = endings

    async def run(self, run: FunctionRun, write: Callable[[str], None]) -> str:
        """The id of the container that has ended well, whose files the node keeps.

        write: takes what the function prints. Raises ImageBuildFailed with how it failed, NotFound, FailedPrecondition."""
        function = self._functions.get(run.function_id)
        if not function.active.spec.builds_image:
            raise FailedPrecondition(f"The function {function.name!r} was not made to build an image.")
        call, _ = await self._calls.start(function.id, "unary", run.invocation, "", [(0, run.payload)], spawned=False)
        printing = asyncio.ensure_future(self._print(function.app_id, function.id, write))
        try:
            output = await self._output(call.id)
            kind, words = self._endings.ending(output.result)
            await self._end_of(output.task_id)
            if kind != "success":
                raise ImageBuildFailed(f"The function {function.name!r} failed: {words or kind}")
            return output.task_id
        except asyncio.CancelledError:
            await finished(self._calls.cancel(call.id, terminate_containers=True))
            raise
        finally:
            await finished(self._stop(printing))

    async def _output(self, call_id: str) -> Output:
        while True:
            outputs, _ = await self._calls.outputs(call_id, 0, _LOOK_SECONDS)
            if outputs:
                return outputs[0]

    async def _end_of(self, task_id: str) -> None:
        """Waits until the container has ended, which it does by itself after its one input."""
        task = self._scheduler.task(task_id)
        if task is not None and task.job is not None:
            await asyncio.wait([task.job])

    async def _print(self, app_id: str, function_id: str, write: Callable[[str], None]) -> None:
        after = self._logs.position
        wanted = LogFilter(function_id=function_id)
        while True:
            async for entry in self._logs.follow(app_id, after, _LOOK_SECONDS, wanted):
                if entry is None:
                    return
                after = entry.seq
                write(entry.data)

    async def _stop(self, printing: asyncio.Future[None]) -> None:
        # What the container said last is on its way.
        await asyncio.sleep(0)
        printing.cancel()
        await asyncio.wait([printing])
