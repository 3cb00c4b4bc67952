"""Which files processes of this machine hold open below some directories."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence

import psutil


def open_by(processes: Iterable[psutil.Process], places: Sequence[str]) -> list[str]:
    """The paths at or below `places` that are open, or the working directory of a process; sorted. Blocks."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            found.update(path for path in _paths(process) if is_below(path, places))
    return sorted(found)


def is_below(path: str, places: Iterable[str]) -> bool:
    """Whether a path is one of `places`, or in one of them."""
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _paths(process: psutil.Process) -> list[str]:
    if not os.path.isdir("/proc/self/fd"):
        return [process.cwd(), *(file.path for file in process.open_files())]
    # psutil leaves out what this process cannot see by the same path, as in another mount namespace.
    base = f"/proc/{process.pid}"
    paths = []
    for name in ("cwd", *(f"fd/{number}" for number in os.listdir(f"{base}/fd"))):
        with contextlib.suppress(OSError):
            paths.append(os.readlink(f"{base}/{name}"))
    return paths
