"""The few Linux system calls that Python does not offer: mounting, unsharing, and opening paths inside a root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import signal
from functools import lru_cache
from pathlib import Path

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
CLONE_FS = 0x200
MOUNTS = Path("/proc/self/mounts")
MNT_DETACH = 2
_IN_MODIFY = 0x2


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). Relative paths count from the calling thread's working directory. Raises OSError."""
    _check(
        _libc().mount(
            source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
        )
    )


def unmount(target: Path, flags: int = 0) -> None:
    """umount2(2). Raises OSError."""
    _check(_libc().umount2(os.fsencode(target), ctypes.c_int(flags)))


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread. Raises OSError."""
    _check(_libc().unshare(ctypes.c_int(flags)))


def watch_changes(path: Path) -> int:
    """A descriptor that can be read, without waiting, whenever the file was changed (inotify). Raises OSError."""
    descriptor: int = _libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    _check(min(0, descriptor))
    try:
        _check(min(0, _libc().inotify_add_watch(descriptor, os.fsencode(path), ctypes.c_uint32(_IN_MODIFY))))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def mount_points() -> list[str]:
    """All of them, the latest last."""
    # The kernel writes space, tab, newline and backslash in a path as \ooo, and other bytes as they are.
    escaped = (line.split(b" ")[1] for line in MOUNTS.read_bytes().splitlines())
    return [os.fsdecode(target.decode("unicode_escape").encode("latin-1")) for target in escaped]


def mounts_below(directory: Path) -> list[Path]:
    """Mount points strictly below `directory`, deepest (latest) first."""
    return [Path(target) for target in reversed(mount_points()) if target.startswith(f"{directory}/")]


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path`, "overlay" for example; empty when not found."""
    best, kind = -1, ""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, target, this_kind, *_ = line.split(" ")
            if len(target) >= best and (path == Path(target) or Path(target) in path.parents):
                best, kind = len(target), this_kind
    return kind


def kill_and_wait(pid: int, seconds: float = 10.0) -> None:
    """Sends SIGKILL and blocks until the process is dead (also when nobody reaps it), at most for so long. No error when it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(max(1, int(seconds * 1000)))
    finally:
        os.close(descriptor)


def kernel() -> str:
    """The kernel's release, for messages."""
    return platform.release()


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
