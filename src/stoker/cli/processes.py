"""Ending another process and waiting for it, woken by the kernel instead of by looking again and again."""

from __future__ import annotations

import os
import select
import signal
import sys


class OtherProcess:
    """A process that is not our child. On Linux the handle stays its own even when its number is given out again."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when there is no such process."""
        self.pid = pid
        self._pidfd = -1
        if sys.platform == "linux":
            self._pidfd = os.pidfd_open(pid)
        else:
            os.kill(pid, 0)

    def signal(self, number: int) -> None:
        """Raises ProcessLookupError or PermissionError."""
        if sys.platform == "linux":
            signal.pidfd_send_signal(self._pidfd, number)
        else:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether the process ended within that time."""
        if sys.platform == "linux":
            return bool(select.select([self._pidfd], [], [], seconds)[0])
        with select.kqueue() as queue:
            event = select.kevent(self.pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
            try:
                return bool(queue.control([event], 1, seconds))
            except ProcessLookupError:
                return True

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
