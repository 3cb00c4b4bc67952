"""How busy the machine's processors are, as a guard against starting containers that nobody could run."""

from __future__ import annotations

import time

import psutil

_SAMPLE_SECONDS = 0.5
_BUSY_PERCENT = 85.0


class Processors:
    """The processors of this machine. Made by the node, and asked before containers are started."""

    def __init__(self) -> None:
        self.count = psutil.cpu_count(logical=True) or 1
        self._sampled_at = time.monotonic()
        self._percent = 0.0
        psutil.cpu_percent(None)  # the first call only sets the start of the measurement

    def start_slots(self) -> int:
        """As many as there are processors, none while they are busy. Measured over the last half second or longer."""
        now = time.monotonic()
        if now - self._sampled_at >= _SAMPLE_SECONDS:
            self._sampled_at = now
            self._percent = psutil.cpu_percent(None)
        return 0 if self._percent >= _BUSY_PERCENT else self.count
