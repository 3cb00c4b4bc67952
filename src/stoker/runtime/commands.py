"""Short programs that a runtime runs beside containers, none of which it waits for without an end; and processes that do not run."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stoker.cancelling import finished

T = TypeVar("T")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DYING = 5.0  # seconds


@dataclass(frozen=True)
class Answer:
    """How a command ended. `late`: it was killed, for it had not after its time."""

    code: int
    errors: str = ""
    late: bool = False


async def ask(command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Answer:
    """Runs a command whose output does not matter. It is killed when it takes longer, or the caller is cancelled. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": _PATH} if env is None else dict(env),
    )
    said = await _within(seconds, process, process.communicate())
    if said is None:
        return Answer(-errno.ETIMEDOUT, late=True)
    return Answer(process.returncode or 0, said[1].decode(errors="replace").strip())


async def hear(command: Sequence[str], seconds: float, most_bytes: int) -> bytes:
    """What a command prints; empty when it fails, takes longer, or prints more. It does not outlive the caller. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": _PATH},
    )
    return await _within(seconds, process, _all_of(process, most_bytes)) or b""


def stopped_among(pids: Iterable[int]) -> str:
    """Says which of the processes is stopped (SIGSTOP), not by a debugger; empty when none is."""
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            if status[2].split()[0] == "T":
                return f"its process {status[0].partition('(')[2] or pid} is stopped"
    return ""


async def _within(seconds: float, process: asyncio.subprocess.Process, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` with a process gives; None when it takes longer. The process ends with it, and when the caller is cancelled."""
    job = asyncio.ensure_future(work)
    try:
        await asyncio.wait([job], timeout=seconds)
        return job.result() if job.done() else None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await finished(_end_of(job))


async def _all_of(process: asyncio.subprocess.Process, most_bytes: int) -> bytes:
    assert process.stdout is not None
    said = bytearray()
    while chunk := await process.stdout.read(1 << 16):
        said += chunk
        if len(said) > most_bytes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            while await process.stdout.read(1 << 16):  # what it has left in the pipe
                pass
            await process.wait()
            return b""
    return bytes(said) if await process.wait() == 0 else b""


async def _end_of(job: asyncio.Future[Any]) -> None:
    await asyncio.wait([job], timeout=_DYING)
    if not job.done():
        job.cancel()
