"""From a program's pipes to the node."""

from __future__ import annotations

import asyncio
import logging

from stoker.runtime.base import OutputSink

_CHUNK = 1 << 16
_log = logging.getLogger(__name__)


async def pump(process: asyncio.subprocess.Process, sink: OutputSink) -> None:
    """Hands everything the process writes to `sink`; returns when both pipes are closed by all who held them."""
    assert process.stdout is not None and process.stderr is not None
    await asyncio.gather(_pump(process.stdout, 1, sink), _pump(process.stderr, 2, sink))


async def _pump(stream: asyncio.StreamReader, descriptor: int, sink: OutputSink) -> None:
    while chunk := await stream.read(_CHUNK):
        try:
            sink(descriptor, chunk)
        except Exception:
            # A broken sink must not stall the program behind a full pipe.
            _log.exception("output of a container was lost")
