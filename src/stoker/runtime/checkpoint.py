"""Memory snapshots of sandboxes by `runsc checkpoint` and `runsc restore`.

A snapshot is a directory with the image that runsc wrote (`image/`) and the container's private files as they were at that moment
(`files/`). Restored containers share both: the files are one more read-only layer of their root.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from stoker.disk import size_of
from stoker.errors import FailedPrecondition
from stoker.runtime import gpu_snapshot
from stoker.runtime.commands import ask
from stoker.runtime.words import in_words

_IMAGE, _FILES = "image", "files"
_DIRECT = "--direct"
_PATIENCE = 60.0  # seconds for what takes milliseconds, and as many more as these bytes a second need:
_SLOWEST = 10 << 20


@dataclass(frozen=True)
class Abilities:
    """What a build of runsc offers, and who it is. Flags are complete, such as "--direct"."""

    build: str = ""
    global_flags: tuple[str, ...] = ()
    save_flags: tuple[str, ...] = ()
    restore_flags: tuple[str, ...] = ()
    gpu_global_flags: tuple[str, ...] = ()
    gpu_save_flags: tuple[str, ...] = ()
    gpu_obstacle: str = ""

    @staticmethod
    def of(runsc: Path) -> Abilities:
        """Asks the program itself. Blocks for some 100 ms."""
        save, restore, every = (
            _help(runsc, *topic) for topic in (("help", "checkpoint"), ("help", "restore"), ("flags",))
        )
        # The default compresses, which makes restores twice as slow.
        wanted = {
            "-compression": "--compression=none",
            "-exclude-committed": "--exclude-committed-zero-pages",
            "-direct": _DIRECT,
        }
        everywhere = {
            # Newer builds compare the configurations of the saved and the restored container; ours differ on purpose.
            "-restore-spec-validation": "--restore-spec-validation=ignore",
            # Without it a connection to another machine prevents the snapshot, and hangs for ever afterwards.
            "-net-disconnect-ok": "--net-disconnect-ok",
        }
        return Abilities(
            build=hashlib.sha256(runsc.read_bytes()).hexdigest(),
            global_flags=tuple(flag for name, flag in everywhere.items() if name in every),
            save_flags=("--leave-running", *(flag for name, flag in wanted.items() if name in save)),
            restore_flags=("--background",) if "-background" in restore else (),
            gpu_global_flags=gpu_snapshot.global_flags(every),
            gpu_save_flags=gpu_snapshot.save_flags(save),
            gpu_obstacle=gpu_snapshot.obstacle(save),
        )


def image_of(snapshot: Path) -> Path:
    """Where the image of a snapshot lies, for `runsc restore --image-path`."""
    return snapshot / _IMAGE


def layers_of(snapshot: Path) -> tuple[Path, ...]:
    """The layers a snapshot puts above those of the container's image."""
    return (snapshot / _FILES,)


async def save(
    command: Sequence[str], flags: Sequence[str], id: str, files: Path, snapshot: Path, memory_bytes: int
) -> None:
    """Saves the sandbox `id` into the new directory `snapshot`. Raises FailedPrecondition; the sandbox goes on in any case, if it can.

    command: runsc with its global flags. flags: those of `runsc checkpoint`. files: the writable layer. memory_bytes: about how much it has."""
    _demand_room(snapshot.parent, memory_bytes)
    seconds = _PATIENCE + memory_bytes / _SLOWEST
    image = snapshot / _IMAGE
    image.mkdir(parents=True)
    if not _takes_direct_writes(image):
        flags = [flag for flag in flags if flag != _DIRECT]
    # Paused around both, so that the files are those that the saved processes know.
    await _run(_PATIENCE, *command, "pause", id)
    try:
        await _run(seconds, *command, "checkpoint", f"--image-path={image}", *flags, id)
        copied = await asyncio.to_thread(size_of, files)
        copy = ("cp", "--archive", "--reflink=auto", "--one-file-system", str(files), str(snapshot / _FILES))
        await _run(_PATIENCE + copied / _SLOWEST, *copy)
    finally:
        with anyio.CancelScope(shield=True):
            await _run(_PATIENCE, *command, "resume", id)
    # Not waited for: the container goes on.
    asyncio.get_running_loop().run_in_executor(None, _read_ahead, image)


def _demand_room(directory: Path, memory_bytes: int) -> None:
    """Raises FailedPrecondition. A try that fills the disk would cut the container's connections for nothing."""
    free = shutil.disk_usage(directory).free
    if free < memory_bytes:
        raise FailedPrecondition(
            f"The disk of the server has {free >> 20} MiB free, and the container has {memory_bytes >> 20} MiB in memory."
        )


async def _run(seconds: float, *command: str) -> None:
    answer = await ask(command, seconds)
    if answer.late:
        raise FailedPrecondition(f"The container cannot be saved: nothing came of it within {seconds:.0f} s.")
    if answer.code:
        reason = in_words(answer.errors) or f"exit code {answer.code}"
        raise FailedPrecondition(f"The container cannot be saved: {reason}")


def _takes_direct_writes(directory: Path) -> bool:
    """Whether files there can be written past the page cache: a caller waits for it, and filling the cache takes longer than the disk."""
    probe = directory / "probe"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def _read_ahead(directory: Path) -> None:
    """Asks for the files to be read into the page cache, where restores want them."""
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        for path in directory.iterdir():
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _help(runsc: Path, *topic: str) -> str:
    done = subprocess.run([runsc, *topic], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr
