"""From a program's two pipes to the node.

The pipes are our own, not asyncio's: `Process.wait` of those waits until every background process has closed them too.
"""

from __future__ import annotations

import asyncio
import logging
import os

from stoker.runtime.base import OutputSink

_CHUNK = 1 << 16
_log = logging.getLogger(__name__)


class OutputPipes:
    """Two pipes whose write ends, `stdout` and `stderr`, are for the program; what comes through goes to `sink` as it comes."""

    def __init__(self, sink: OutputSink = lambda descriptor, chunk: None) -> None:
        self.sink = sink
        self.passed = 0
        """Bytes that came through."""
        self._launched = False
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()
        self._open: dict[int, int] = {}  # read end -> file descriptor in the program
        self._room: asyncio.Future[None] | None = None  # while nothing is read
        read_out, self.stdout = os.pipe()
        try:
            read_err, self.stderr = os.pipe()
        except OSError:
            os.close(read_out)
            os.close(self.stdout)
            raise
        for end, number in ((read_out, 1), (read_err, 2)):
            os.set_blocking(end, False)
            self._open[end] = number
            self._loop.add_reader(end, self._read, end)

    def launched(self) -> None:
        """The program has its write ends (or was not launched): ours are closed, so that their end can be seen."""
        if not self._launched:
            self._launched = True
            os.close(self.stdout)
            os.close(self.stderr)

    @property
    def closed(self) -> bool:
        """Whether nobody holds a write end any more and everything was delivered."""
        return self._closed.done()

    async def drained(self, timeout: float) -> bool:
        """Waits until all who held the write ends closed them and everything was delivered; False when for `timeout` seconds nothing came
        for which there was room."""
        while not self._closed.done():
            passed = self.passed
            await asyncio.wait([self._closed], timeout=timeout)
            if self.passed == passed and self._room is None:
                break
        return self._closed.done()

    def abandon(self) -> None:
        """Somebody keeps a write end: what comes later is lost."""
        for end in list(self._open):
            self._close(end)

    def _read(self, end: int) -> None:
        try:
            chunk = os.read(end, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self._close(end)
            return
        self.passed += len(chunk)
        try:
            room = self.sink(self._open[end], chunk)
        except Exception:
            # A broken sink must not stall the program behind a full pipe.
            _log.exception("output of a container was lost")
            return
        if room is not None and self._room is None:
            self._pause(room)

    def _pause(self, room: asyncio.Future[None]) -> None:
        self._room = room
        for end in self._open:
            self._loop.remove_reader(end)
        room.add_done_callback(self._go_on)

    def _go_on(self, room: asyncio.Future[None]) -> None:
        self._room = None
        for end in self._open:
            self._loop.add_reader(end, self._read, end)

    def _close(self, end: int) -> None:
        self._loop.remove_reader(end)
        os.close(end)
        del self._open[end]
        if not self._open:
            self._closed.set_result(None)
