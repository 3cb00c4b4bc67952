"""The access log: a line for every request, and their number. It costs a tenth of what the server's other log lines do, for there may be
thousands a second."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import datetime, timezone
from typing import Any, TextIO

import structlog

from stoker.services.telemetry.metrics import Metrics

_GATHER = 0.1  # seconds for which lines are gathered, to be written together
_log = structlog.get_logger(__name__)


class AccessLog:
    """pretty: lines for people, written one by one like all others; otherwise one JSON object a line, in the form of the others."""

    def __init__(
        self, metrics: Metrics, *, enabled: bool = True, pretty: bool = False, stream: TextIO | None = None
    ) -> None:
        self.open = 0
        """Requests that have begun and are not over."""
        self._metrics = metrics
        self._enabled = enabled
        self._pretty = pretty
        self._stream = stream
        self._lines: list[dict[str, Any]] = []
        self._flushing: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A request has begun."""
        self.open += 1

    def add(self, event: dict[str, Any]) -> None:
        """A request is over; its fields. Called in the event loop."""
        self.open -= 1
        self._metrics.web_request(event["label"], event["status"] or 0, event["ms"] / 1000)
        if not self._enabled:
            return
        if self._pretty:
            _log.info("web request", **event)
            return
        event["timestamp"] = time.time()
        self._lines.append(event)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(_GATHER, self.flush)

    def flush(self) -> None:
        """Writes what has gathered. Called once more at the end."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        lines, self._lines = self._lines, []
        if lines:
            stream = self._stream or sys.stderr
            stream.write("".join(map(_written, lines)))
            stream.flush()


def _written(event: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(event.pop("timestamp"), timezone.utc).isoformat(timespec="microseconds")
    return json.dumps({**event, "event": "web request", "level": "info", "timestamp": f"{when[:-6]}Z"}) + "\n"
