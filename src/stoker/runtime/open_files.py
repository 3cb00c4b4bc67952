"""Which files the processes of a container hold open below some directories."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Sequence

import psutil

_SCAN = """
import os, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        names = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{n}" for n in os.listdir(f"/proc/{pid}/fd"))]
    except OSError:
        continue
    for name in names:
        try:
            path = os.readlink(name)
        except OSError:
            continue
        if any(path == p or path.startswith(p + "/") for p in sys.argv[1:]):
            print(path)
"""
_SECONDS = 20.0


async def open_inside(execute: Sequence[str], places: Sequence[str]) -> list[str]:
    """Asks from inside the container, for outside of a sandbox a file that was closed looks as open as any.

    execute: the words before a command that is to run in the container, as root with CAP_SYS_PTRACE, without which other processes'
    working directories cannot be seen. An image without Python says that nothing is open."""
    process = await asyncio.create_subprocess_exec(
        *execute, "python", "-I", "-S", "-c", _SCAN, *places,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _SECONDS)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if isinstance(error, asyncio.TimeoutError):
            return []
        raise
    return sorted(set(output.decode(errors="replace").splitlines()))


def open_by(processes: Iterable[psutil.Process], places: Sequence[str]) -> list[str]:
    """The same for processes of this machine. Blocks."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            found.update(path for path in _paths(process) if _below(path, places))
    return sorted(found)


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


def _below(path: str, places: Sequence[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
