"""What a container has written to the disk of the machine, as its own."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.disk import statuses

BYTES_A_FILE = 16 << 10
"""File systems have about one inode for so many bytes, so that many small files fill a disk, too."""


@dataclass(frozen=True)
class Written:
    """What there is on the disk: bytes and files."""

    size: int = 0
    files: int = 0

    @property
    def burden(self) -> int:
        """Bytes of the disk that nobody else can use."""
        return max(self.size, self.files * BYTES_A_FILE)


def measure(places: Iterable[Path], pids: Sequence[int]) -> Written:
    """What lies in the directories, and what was removed there and is still open in one of the processes. Blocks."""
    size, files = 0, 0
    for place in places:
        for status in statuses(place):
            size += status.st_blocks * 512
            files += 1
    removed = dict(status for pid in pids for status in _removed(pid))
    return Written(size + sum(removed.values()), files + len(removed))


def written_by(pids: Iterable[int]) -> int:
    """Bytes that the processes have written since their start: by calls, to whatever, and by mapped files, of which those of calls may be a
    part. Good for comparisons."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/{pid}/io").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("wchar", "write_bytes"):
                    total += int(value)
    return total


def _removed(pid: int) -> list[tuple[tuple[int, int], int]]:
    """Files that only open descriptors keep: (device, inode), and bytes."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            with contextlib.suppress(OSError):
                target = os.readlink(path)
                if target.endswith(" (deleted)") and not target.startswith("/memfd:"):
                    status = os.stat(path)
                    if stat.S_ISREG(status.st_mode):
                        found.append(((status.st_dev, status.st_ino), status.st_blocks * 512))
    return found
