"""Cuts the output of a container into lines as they are printed."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable

_FLUSH_AFTER = 0.1  # seconds an unfinished line (a progress bar, a prompt) is held back
_LONGEST = 64 << 10  # characters; longer lines are passed on in pieces


class LineSplitter:
    """Collects chunks of one stream and calls `emit` with whole lines, several at once when they came together.

    Bytes that are not UTF-8 become replacement characters; a character split over two chunks does not.
    """

    def __init__(self, emit: Callable[[str], asyncio.Future[None] | None]) -> None:
        """emit: may return a future, see `feed`."""
        self._emit = emit
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, chunk: bytes) -> asyncio.Future[None] | None:
        """A future when who takes the lines wants no more until it is done."""
        text = self._rest + self._decoder.decode(chunk)
        end = text.rfind("\n") + 1
        if end == 0 and len(text) > _LONGEST:
            end = len(text)
        self._rest = text[end:]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rest:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_AFTER, self.flush)
        return self._emit(text[:end]) if end else None

    def flush(self) -> None:
        """Passes on what is held back, also without a line end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        rest, self._rest = self._rest, ""
        if rest:
            self._emit(rest)

    def close(self) -> None:
        self._rest += self._decoder.decode(b"", final=True)
        self.flush()
