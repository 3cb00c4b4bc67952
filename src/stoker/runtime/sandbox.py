"""One running gVisor sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from stoker.errors import FailedPrecondition
from stoker.nodes.endings import MOST_PROCESSES, Exit, ExitKind, Usage
from stoker.runtime.base import ContainerSpec
from stoker.runtime.cgroups import Cgroup
from stoker.runtime.commands import ask, stopped_among
from stoker.runtime.inspection import Inspection, inspect
from stoker.runtime.output import OutputPipes
from stoker.runtime.words import in_words
from stoker.runtime.written import Written

_SANDBOX_FAILED = 128
"""What `runsc run` exits with when it is gVisor and not the user's program that failed."""
_NOT_JOINED = 125
"""What the shell that joins the cgroups exits with when it cannot."""
_KILLED = 128 + signal.SIGKILL
_DYING = 30.0
"""Seconds that processes may take to die. What hangs in the kernel does not, and must not keep the inputs of the container."""
_ANSWER = 10.0  # seconds that gVisor may take to pass a signal on
_MANY = 10_000
_MAIN_PROCESSES = 4  # the launcher, the gofer and gVisor's kernel are there before the first of the program's
_SILENT = 10.0
"""Seconds after which nothing more is expected to come through the pipes of a sandbox that is gone."""

_log = logging.getLogger(__name__)
_decoder = json.JSONDecoder()


class Sandbox:
    """A Container. `command` is runsc with its global flags, `process` the `runsc run` that ends when the sandbox does."""

    def __init__(
        self,
        spec: ContainerSpec,
        *,
        process: asyncio.subprocess.Process,
        group: Cgroup,
        command: tuple[str, ...],
        directory: Path,
        disk_limit: int,
        address: str | None,
        pipes: OutputPipes,
        remove: Callable[[], Awaitable[None]],
        save: Callable[[Path], Awaitable[None]],
    ) -> None:
        self._spec = spec
        self._process = process
        self._group = group
        self._command = command
        self._directory = directory
        self.disk_limit = disk_limit
        self.places = (directory / "upper", *spec.own)
        self._remove = remove
        self._save = save
        self._killed = False
        self._verdict: Exit | None = None  # why we ended it
        self.address = address
        self._killing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        group.watch_oom(self._on_oom)
        self._pipes = pipes
        self._end = asyncio.create_task(self._finish())

    @property
    def id(self) -> str:
        return self._spec.id

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    async def signal(self, number: int) -> None:
        # Early on there is no process to signal yet; runsc then says so, and nothing tells when there will be.
        for _ in range(100):
            if self._process.returncode is not None:
                return
            answer = await ask((*self._command, "kill", self.id, str(int(number))), _ANSWER)
            if answer.code == 0 or answer.late:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._process.wait()), 0.05)

    async def kill(self) -> None:
        if not self._end.done():
            self._killed = True
            self._kill_all()

    @property
    def ending(self) -> bool:
        """Whether it is killed, or over, though its processes may still be there."""
        return self._killing.done() or self._process.returncode is not None

    def memory_in_use(self) -> int:
        """Bytes that only its end gives back."""
        usage = self._group.usage()
        return usage.memory_bytes if usage is not None else 0

    def memory_excess(self) -> int:
        """Bytes of these above what it asked for."""
        return self.memory_in_use() - self._spec.limits.memory_request

    def lost_a_process(self) -> bool:
        """Whether the kernel killed a part of it for memory."""
        return self._group.ran_out_of_memory()

    def end_for_memory(self) -> None:
        """Ends it, for it has most above its request and all together have no memory left, or because the kernel thought so."""
        self.end(self._out_of_memory())

    def main_pids(self) -> list[int]:
        """Of those processes of gVisor that open and write files."""
        return self._group.first_pids(_MAIN_PROCESSES)

    def printed(self) -> int:
        return self._pipes.passed

    def was_refused_tasks(self) -> bool:
        return self._group.was_refused_tasks()

    def end_for_tasks(self) -> None:
        self.end(self._too_many_processes())

    def end_for_disk(self, written: Written, *, free: int | None) -> None:
        has = f"It has {written.size >> 20} MiB in {written.files} files"
        if free is not None:
            why = (
                f"it was writing while only {free >> 20} MiB are free on the disk of the server, less than are kept for the server itself. {has} of "
                "its own; what it wrote to Volumes stays."
            )
        else:
            why = (
                f"it has written more to the disk than the {self.disk_limit >> 20} MiB that it may. {has}. Ask for more with ephemeral_disk=, or write "
                "to a Volume."
            )
        self.end(Exit(ExitKind.LIMIT, _KILLED, f"The container was killed because {why}"))

    def end(self, verdict: Exit) -> None:
        """Ends every process of the container at once, for a reason that `wait` tells. No effect when it has ended, or is ending."""
        if not self._end.done() and not self._killed and self._verdict is None:
            self._verdict = verdict
            self._kill_all()

    async def stuck(self, timeout: float) -> str:
        stopped = await asyncio.to_thread(lambda: stopped_among((self._process.pid, *self._group.first_pids(_MANY))))
        if stopped or self._process.returncode is not None:
            return stopped if self._process.returncode is None else ""
        answer = await ask((*self._command, "ps", self.id), timeout)
        return "its sandbox does not answer" if answer.late and self._process.returncode is None else ""

    async def open_files(self, places: Sequence[str]) -> list[str]:
        found = await self.inspect(places)
        return sorted({file.path for file in found.files if file.is_below(places) and not file.mapped}) if found else []

    async def inspect(self, places: Sequence[str]) -> Inspection | None:
        if self._process.returncode is not None:
            return None
        return await inspect((*self._command, "exec", "--cap=CAP_SYS_PTRACE", self.id), places)

    async def checkpoint(self, directory: Path) -> None:
        if self._process.returncode is not None:
            raise FailedPrecondition("The container has ended.")
        await self._save(directory)

    async def usage(self) -> Usage | None:
        return None if self._process.returncode is not None else self._group.usage()

    async def _finish(self) -> Exit:
        code = await self._launchers_end()
        # Whatever still lives (after the launcher was killed) holds the pipes open.
        if not await asyncio.to_thread(self._group.kill, _DYING):
            _log.error("processes of the container %s cannot be killed; they are left behind", self.id)
        if not await self._pipes.drained(_SILENT):
            self._pipes.abandon()
        self._group.unwatch_oom()
        end = self._judge(code)
        await self._remove()
        return end

    async def _launchers_end(self) -> int:
        """Its exit code. Once everything was killed it is not waited for without an end."""
        end = asyncio.ensure_future(self._process.wait())
        both: list[asyncio.Future[Any]] = [end, self._killing]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([end], timeout=_DYING)
        if end.done():
            return end.result()
        end.cancel()
        return -signal.SIGKILL

    def _judge(self, code: int) -> Exit:
        if self._killed:
            return Exit(ExitKind.KILLED, _KILLED, "The container was killed.")
        if self._verdict is not None:
            return self._verdict
        if code != 0 and self._group.ran_out_of_memory():
            return self._out_of_memory()
        if code != 0 and self._group.was_refused_tasks():
            # gVisor crashes where it cannot make a process of its own for one of the program's.
            return self._too_many_processes()
        reason = self._panic() or (
            in_words(errors_of(self._directory)) if code in (_SANDBOX_FAILED, _NOT_JOINED) else ""
        )
        if code < 0:
            reason = f"its launcher died of signal {-code}"
        if reason:
            return Exit(ExitKind.FAILED, _SANDBOX_FAILED, f"The sandbox failed: {reason}")
        return Exit(ExitKind.EXITED, code)

    def _out_of_memory(self) -> Exit:
        limit = self._spec.limits.memory_bytes
        if limit is not None and self._group.hit_its_limit():
            why = f"it needed more memory than its limit of {limit >> 20} MiB."
        else:
            used, asked = self.memory_in_use() >> 20, self._spec.limits.memory_request >> 20
            had = f" and had {used}" if used else ""  # nothing is left where the kernel was faster
            why = (
                f"the machine's memory for containers was used up; it had asked for {asked} MiB{had}. Ask for what it needs with memory=, so that it starts where there is room "
                "for it."
            )
        return Exit(ExitKind.OOM, _KILLED, f"The container was killed because {why}")

    def _too_many_processes(self) -> Exit:
        most = min(self._spec.limits.tasks, MOST_PROCESSES)
        return Exit(ExitKind.LIMIT, _KILLED, f"The container was killed because it had more than {most} processes.")

    def _panic(self) -> str:
        """The first line of gVisor's last words, empty when it did not crash. Its exit code is then a meaningless 2."""
        with contextlib.suppress(OSError):
            for line in (self._directory / "panic.log").read_text(errors="replace").splitlines():
                if line.startswith(("panic:", "fatal error:", "SIG", "runtime:")):
                    return f"gVisor crashed ({line.strip()})"
        return ""

    def _on_oom(self) -> None:
        # The kernel kills one process of the sandbox; the others could wait for it forever.
        self.end_for_memory()

    def _kill_all(self) -> None:
        if not self._killing.done():
            self._killing.set_result(None)
        # At the very beginning the launcher is not in the group yet; what it starts meanwhile `_finish` finds there.
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._group.kill_now()


def errors_of(directory: Path) -> str:
    """The errors that runsc logged for the container there, the first of which is the cause; empty when there is none."""
    messages: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        text = (directory / "runsc.log").read_text(errors="replace")
        # JSON objects, not always on lines of their own.
        while text := text.strip():
            entry, end = _decoder.raw_decode(text)
            text = text[end:]
            if entry.get("level") in ("error", "fatal"):
                messages.append(str(entry.get("msg", "")).strip())
    return "; ".join(dict.fromkeys(messages))
