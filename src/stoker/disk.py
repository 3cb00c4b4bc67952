"""What files take of the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def size_of(path: Path) -> int:
    """Bytes on the disk of a file, or a directory and all in it. Blocks."""
    return sum(status.st_blocks * 512 for status in statuses(path))


def statuses(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or a directory and all in it. What others just remove is left out. Blocks."""
    inside = (os.path.join(root, name) for root, places, names in os.walk(path) for name in (*places, *names))
    for place in (str(path), *inside):
        with contextlib.suppress(FileNotFoundError):
            yield os.lstat(place)
