"""What a container may use, what it uses, and how it ended."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MOST_PROCESSES = 1024


@dataclass(frozen=True)
class Limits:
    """What a container may use. None means the whole machine."""

    cpu_milli: int | None = None
    memory_bytes: int | None = None
    memory_request: int = 0
    """Bytes it asked for. What it has beyond them it may lose when all containers together have used up the machine's memory."""
    disk_bytes: int | None = None
    """What it may write to the disk as its own: all that is not in a mount. None for what the runtime gives each."""
    tasks: int = 4000
    """Processes and threads; of processes no more than `MOST_PROCESSES`, each of which is one of the host's, too."""


class ExitKind(str, enum.Enum):
    EXITED = "exited"  # by itself, with an exit code
    OOM = "oom"  # it was killed for memory
    LIMIT = "limit"  # it was killed because it had more of something else than it may
    KILLED = "killed"  # we killed it
    FAILED = "failed"  # never started, or the sandbox itself crashed


@dataclass(frozen=True)
class Exit:
    """How a container ended. `code` is the exit code of its first process (128+n for signal n), `detail` a sentence for the user."""

    kind: ExitKind
    code: int
    detail: str = ""


@dataclass(frozen=True)
class Usage:
    """Resources used so far. `cpu_seconds` from the cgroup (never from inside the sandbox), `memory_bytes` now."""

    cpu_seconds: float
    memory_bytes: int
