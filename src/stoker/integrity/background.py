"""Reading much beside the work of a server: one thing after the other, at a bounded pace, in a thread to which disks attend last."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psutil

from stoker.integrity.reading import CalledOff, Pace

T = TypeVar("T")


class BackgroundReader:
    """The thread's share of a processor is small by its pace. Its priority stays: a thread that holds Python's lock and gets no processor would
    hold up the whole server."""

    def __init__(self, bytes_a_second: float) -> None:
        self._bytes_a_second = bytes_a_second
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background reader", initializer=_come_last)

    async def read(self, work: Callable[[Pace], T], *, direct: bool) -> T:
        """Does `work` when what was asked for before is done. direct: see `Pace`. Raises CalledOff when `stop` was called, and what `work` raises."""
        if self._stop.is_set():
            raise CalledOff

        def begin() -> T:
            pace = Pace(self._bytes_a_second, direct=direct, stop=self._stop)
            pace.entry()
            return work(pace)

        return await asyncio.get_running_loop().run_in_executor(self._thread, begin)

    def stop(self) -> None:
        """What is being read ends within a moment, and nothing more is read."""
        self._stop.set()
        self._thread.shutdown(wait=False)


def _come_last() -> None:
    if psutil.LINUX:
        with contextlib.suppress(psutil.Error, OSError):  # not allowed here; the pace is bounded all the same
            psutil.Process(threading.get_native_id()).ionice(psutil.IOPRIO_CLASS_IDLE)
