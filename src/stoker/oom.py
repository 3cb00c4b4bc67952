"""In which order the kernel ends processes when the memory of the machine is used up: containers and builds first, the server last."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

SERVER, HELPERS, BUILDS = -900, 300, 1000  # a build asks for no memory, as a container that goes first does
_LEAST, _MOST = 400, 1000  # of containers


def container_score(request_bytes: int, available_bytes: int) -> int:
    """The score of a container's processes, the higher the sooner they go: the more it asked for, the later. To the score the kernel adds
    what a process has, so that in the end what it has above its request counts."""
    return max(_LEAST, _MOST - _MOST * request_bytes // max(1, available_bytes))


def set_score(score: int, pid: int | None = None) -> None:
    """Of a process, by default this one, and of those that it starts from now on. Without the right to it nothing changes."""
    with contextlib.suppress(OSError):
        Path("/proc", "self" if pid is None else str(pid), "oom_score_adj").write_text(str(score))


def scored(score: int) -> tuple[str, ...]:
    """What to put before a command so that it, and all that it starts, has that score from its beginning."""
    return ("choom", "-n", str(score), "--") if shutil.which("choom") else ()
