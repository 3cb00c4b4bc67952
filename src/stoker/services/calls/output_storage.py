"""The storing of outputs: before anybody sees them, and again and again when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from stoker.aio.jobs import Jobs
from stoker.services.calls.call_records import WEB, Call, Output, output_row
from stoker.store import tables
from stoker.store.database import Database

# Seconds until outputs that could not be stored are tried again: while none can, doubled, up to the second.
_TRY_AGAIN, _LONGEST_TRY_AGAIN = 1.0, 60.0
_log = structlog.get_logger(__name__)


class OutputStorage:
    """Outputs on their way into the database. Made by `Calls`, which asks it whether an input has one already."""

    def __init__(
        self, database: Database, jobs: Jobs, *, call_of: Callable[[str], Call], show: Callable[[Output], None]
    ) -> None:
        """jobs: of the owner, who waits for them at its end. call_of: the call with an id. show: called when an output is stored, so that its
        caller may have it."""
        self._database = database
        self._jobs = jobs
        self._call_of = call_of
        self._show = show
        self._saving: dict[str, asyncio.Future[None]] = {}  # inputs whose outputs are being stored
        self._unsaved: dict[str, Output] = {}  # outputs whose storing failed
        self._saver: asyncio.Task[None] | None = None  # stores those in the end

    def saving(self, input_id: str) -> asyncio.Future[None] | None:
        """Done when the output of an input that is just being stored is, or with the error of that."""
        return self._saving.get(input_id)

    def unsaved(self, input_id: str) -> Output | None:
        """The output of an input that could not be stored so far."""
        return self._unsaved.get(input_id)

    def has(self, input_id: str) -> bool:
        """Whether there is an output of the input that is not stored yet."""
        return input_id in self._saving or input_id in self._unsaved

    async def save(self, outputs: Sequence[Output]) -> None:
        """Stores outputs, then shows them to the callers. When storing fails they are kept, and stored with the next `save_later`."""
        if not outputs:
            return
        saved = asyncio.get_running_loop().create_future()
        for output in outputs:
            self._saving[output.input_id] = saved
            call = self._call_of(output.call_id)
            call.last_seq += 1  # a new number for each try, so that numbers only grow in the order of success
            output.seq = call.last_seq
        try:
            rows = [output_row(o) for o in outputs if self._call_of(o.call_id).kind != WEB]
            if rows:
                await self._database.append((tables.outputs, rows))
        except Exception as error:
            self._unsaved.update((output.input_id, output) for output in outputs)
            saved.set_exception(error)
            saved.exception()  # a repeat of the report may await it, but nobody has to
            raise
        else:
            saved.set_result(None)
        finally:
            saved.cancel()
            for output in outputs:
                del self._saving[output.input_id]
        for output in outputs:
            self._unsaved.pop(output.input_id, None)
            self._show(output)

    def save_later(self) -> asyncio.Task[None]:
        """Outputs that could not be stored are tried until they are: the container that would report them again may end before."""
        if self._saver is None or self._saver.done():
            self._saver = self._jobs.start("store outputs", self._save_unsaved())
        return self._saver

    async def _save_unsaved(self) -> None:
        pause, said = _TRY_AGAIN, ""
        while self._unsaved:
            await asyncio.sleep(pause)
            due = [output for output in self._unsaved.values() if output.input_id not in self._saving]
            # Each on its own, so that one that cannot be stored holds up no other; together they still are one commit.
            results = await asyncio.gather(*(self.save([output]) for output in due), return_exceptions=True)
            errors = [result for result in results if result is not None]
            pause = min(2 * pause, _LONGEST_TRY_AGAIN) if errors and None not in results else _TRY_AGAIN
            why = "; ".join(sorted({str(getattr(error, "orig", error)) for error in errors}))
            if why and why != said:
                _log.warning("outputs cannot be stored, and are tried again", outputs=len(errors), error=why)
            said = why
