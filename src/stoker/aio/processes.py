"""Child processes of a build: streamed by line, and never outliving the task that waits for them."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker import oom

_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 14
"""Characters after which an unfinished line is handed on anyway (progress bars, minified files)."""

# The first dies with the server, even when that is killed. The second gives an own mount and process namespace: whatever a step
# leaves behind (mounts, daemons) ends with it.
_PRIVATE = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *(
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
        "--",
    ),
)


@dataclass(frozen=True)
class Finished:
    """How a short command ended. `output` is its standard output, `errors` its standard error."""

    code: int
    output: str
    errors: str


def private(argv: Sequence[str]) -> tuple[str, ...]:
    """`argv` in an own mount and process namespace that ends with the command (needs root)."""
    return (*_PRIVATE, *argv)


async def stream(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, line: Callable[[str], None]
) -> int:
    """Runs `argv`, calls `line` with each line of its output and errors (without line end) as it comes, returns the exit code.

    When the waiting task is cancelled, the process and its group are killed before the cancellation goes on."""
    process = await asyncio.create_subprocess_exec(
        *oom.scored(oom.BUILDS),
        *argv,
        env=dict(env),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest = ""
    try:
        while chunk := await process.stdout.read(_CHUNK):
            *lines, rest = (rest + decode(chunk)).split("\n")
            for text in lines:
                line(text.rstrip("\r"))
            if len(rest) > _LONGEST_LINE:
                line(rest)
                rest = ""
        if rest:
            line(rest)
        return await process.wait()
    finally:
        await _end(process)


async def capture(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, stdin: str = "") -> Finished:
    """Runs a short command and returns all it said. Killed like `stream` when cancelled."""
    # A file and not a pipe: uvloop raises when a program ends before its input is written.
    with tempfile.TemporaryFile() as source:
        source.write(stdin.encode())
        source.seek(0)
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            cwd=cwd,
            stdin=source,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    try:
        output, errors = await process.communicate()
        assert process.returncode is not None
        return Finished(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Shielded: a second cancellation must not leave the dying process unobserved.
    await asyncio.shield(asyncio.ensure_future(process.wait()))
