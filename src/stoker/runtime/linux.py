"""The few Linux system calls that Python does not offer: mounting, unsharing, and opening paths inside a root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import select
import signal
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
MS_NODEV = 0x4
CLONE_FS = 0x200
CLONE_NEWUSER = 0x10000000
MOUNTS = Path("/proc/self/mounts")
MNT_DETACH = 2
_PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 28, 1 << 2
# The numbers of newer system calls, which are the same on all machines.
_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _MOUNT_ATTR_IDMAP, _RESOLVE_IN_ROOT = 1, 4, 0x100000, 0x10
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


@contextlib.contextmanager
def owning_as(user: int) -> Iterator[None]:
    """What this thread makes meanwhile belongs to `user` and the group of that number; it keeps all its capabilities. Raises OSError."""
    libc = _libc()
    # Else the kernel would take capabilities away with the number 0.
    _check(libc.prctl(_PR_SET_SECUREBITS, ctypes.c_ulong(_NO_SETUID_FIXUP), 0, 0, 0))
    group, former = libc.setfsgid(user), libc.setfsuid(user)
    try:
        yield
    finally:
        libc.setfsuid(former)
        libc.setfsgid(group)
        _check(libc.prctl(_PR_SET_SECUREBITS, 0, 0, 0, 0))


def open_in(directory: int, path: str, flags: int | None = None) -> int:
    """A descriptor of `path` below the directory of that descriptor, which all links on the way take for "/". Raises OSError.

    flags: of os.open; O_PATH by default."""
    how = struct.pack("QQQ", (os.O_PATH if flags is None else flags) | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    return _checked(_libc().syscall(_OPENAT2, directory, path.lstrip("/").encode() or b".", how, len(how)), path)


def clone_mount(source: str, target: str, user_namespace: int = -1) -> None:
    """Mounts the directory or file `source` at `target` as well, without the mounts below it. Raises OSError.

    user_namespace: a descriptor; files then belong, as seen at `target`, to what their owners' numbers mean in that namespace."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    tree = _checked(_libc().syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags), source)
    try:
        if user_namespace >= 0:
            how = struct.pack("QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
            _checked(_libc().syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, how, len(how)), source)
        moved = _libc().syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
        _checked(moved, target)
    finally:
        os.close(tree)


def user_namespace(first: int, count: int) -> int:
    """A descriptor of a new user namespace whose users and groups 0 to `count` - 1 are those from `first` on. Raises OSError."""
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(go_on[1])
            unshare(CLONE_NEWUSER)
            os.write(ready[1], b"x")
            os.read(go_on[0], 1)  # until it is closed
            code = 0
        finally:
            os._exit(code)
    try:
        os.close(ready[1])
        if not os.read(ready[0], 1):
            raise OSError(errno.EPERM, "no user namespace can be made")
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text(f"0 {first} {count}\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (ready[0], *go_on):
            os.close(descriptor)
        os.waitpid(child, 0)


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
    _checked(-1 if result else 0)


def _checked(result: int, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *([path] if path else []))
    return result
