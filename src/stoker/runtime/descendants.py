"""Finding the processes of a container by a mark in their environment, however they were started and whoever their parent is now."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import psutil

from stoker.runtime import linux


def kill_marked(name: str, prefix: str) -> None:
    """Kills all processes (but this one) whose environment variable `name` begins with `prefix`, until there are none. Blocks."""
    complete = False
    while not complete:
        found, complete = _marked(name, prefix)
        if sys.platform == "linux":
            for process in found:
                linux.kill_and_wait(process.pid)
        else:
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=5)
        complete = complete and not found


def marked(name: str, prefix: str) -> list[psutil.Process]:
    """The processes whose environment variable `name` begins with `prefix`. Blocks."""
    return _marked(name, prefix)[0]


def _marked(name: str, prefix: str) -> tuple[list[psutil.Process], bool]:
    """The marked processes, and False when others ended meanwhile, which may have left a child that was not looked at."""
    found, complete = [], True
    for pid in psutil.pids():
        if pid == os.getpid():
            continue
        try:
            if _has(pid, name, prefix):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            complete = complete and psutil.pid_exists(pid)  # kernel threads and zombies exist without a memory to read
        except (psutil.Error, OSError):
            continue  # somebody else's process
    return found, complete


def _has(pid: int, name: str, prefix: str) -> bool:
    if sys.platform != "linux":
        return psutil.Process(pid).environ().get(name, "").startswith(prefix)
    # One read instead of the parsed environment: this looks at every process of the machine.
    wanted = os.fsencode(f"\0{name}={prefix}")
    for _ in range(5):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if environment or not _executes(pid):
            break
        time.sleep(0.001)  # in the middle of an exec the environment reads as empty
    return wanted in b"\0" + environment


def _executes(pid: int) -> bool:
    """Whether the process has a program, as kernel threads and zombies have not."""
    try:
        return bool(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return False
