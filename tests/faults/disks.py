"""Harm to disks: one that is full for a while, and files that the server cannot make longer."""

from __future__ import annotations

import contextlib
import random
import resource
import time
from pathlib import Path

from tests.conftest import RunningServer


class SmallDisk:
    """longest: seconds for which it is full at a time."""

    def __init__(self, directory: Path, longest: float) -> None:
        self._ballast = directory / "ballast"
        self._longest = longest

    def fill(self, choice: random.Random) -> bool:
        """To the last byte, and again whenever something has been removed."""
        until = time.monotonic() + choice.uniform(0.5, self._longest)
        with self._ballast.open("wb", buffering=0) as ballast:
            while time.monotonic() < until:
                for size in (1 << 20, 1 << 12, 1):
                    with contextlib.suppress(OSError):
                        while ballast.write(bytes(size)):
                            pass
                time.sleep(0.05)
        self._ballast.unlink()
        return True


class ShortWrites:
    """The server's files may not grow beyond some size (RLIMIT_FSIZE), as with a quota: the write that reaches it is cut short, and the next
    one fails. Containers that start meanwhile have the limit, too. longest: seconds at a time."""

    def __init__(self, server: RunningServer, longest: float) -> None:
        self._server = server
        self._longest = longest

    def limit(self, choice: random.Random) -> bool:
        pid = self._server.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (choice.randrange(1 << 20), hard))
        time.sleep(choice.uniform(0.5, self._longest))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        return True
