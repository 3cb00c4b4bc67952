"""What of the cache directory is not worth its room any more. Nothing in it is the only copy of anything, and no container uses what is
named here: the client trees that containers have as layers are held by their servers (see client.py)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stoker.disk import size_of, statuses

_UNFINISHED_AFTER = 86_400.0  # seconds; nobody makes a base or waits for a download so long
_UNPACKED = re.compile(r"^(?:archive|builds|environments|git|sdists)-v\d+$")
"""Directories of uv's cache. It takes a package in there that has lost some of its files for whole, and installs what is left."""


@dataclass(frozen=True)
class Rubbish:
    """A file or directory, why it may go, and the bytes it has on the disk."""

    path: Path
    why: str
    size: int


def find(cache: Path, *, base_seconds: float, download_seconds: float) -> list[Rubbish]:
    """base_seconds: the age of a base made from packages at which the next build makes a new one anyway. download_seconds: how long a
    download may lie unused. Blocks."""
    now = time.time()
    found = []
    for path in _entries(cache / "bases"):
        age = now - path.lstat().st_mtime
        if path.name.startswith(".making-") and age > _UNFINISHED_AFTER:
            found.append(Rubbish(path, "left by a build that was killed", size_of(path)))
        elif path.is_dir() and not path.name.startswith(".") and age > base_seconds:
            found.append(Rubbish(path, "a base that the next build would make anew", size_of(path)))
    for path in _entries(cache / "clients"):
        if path.name.startswith(".making-") and now - path.lstat().st_mtime > _UNFINISHED_AFTER:
            found.append(Rubbish(path, "left by a server that was killed", size_of(path)))
        elif path.is_dir() and not path.name.startswith(".") and now - _tree_used_at(path) > download_seconds:
            found.append(Rubbish(path, "a client that was not used for long", size_of(path)))
    for name in ("downloads", "uv", "tools"):
        for path in _units(cache / name):
            if now - _used_at(path) > download_seconds:
                found.append(Rubbish(path, "a download that was not used for long", size_of(path)))
    return found


def remove(rubbish: Rubbish) -> bool:
    """Whether it is gone; not when a server of this machine is just making it anew. Blocks."""
    if rubbish.path.is_dir() and not rubbish.path.is_symlink():
        lock = rubbish.path.with_name(f"{rubbish.path.name}.lock")
        with contextlib.ExitStack() as held:
            if lock.exists():
                file = held.enter_context(lock.open("r+"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
            # Out of the way in one step: nobody may find it with a part of its files.
            doomed = rubbish.path.with_name(f".making-{rubbish.path.name.lstrip('.')}-gone")
            with contextlib.suppress(OSError):
                rubbish.path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    else:
        rubbish.path.unlink(missing_ok=True)
    return not os.path.lexists(rubbish.path)


def _entries(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(directory.iterdir())


def _units(directory: Path) -> Iterator[Path]:
    """What goes or stays as a whole: single files, but all that is unpacked of one package."""
    for root, directories, names in os.walk(directory):
        if _UNPACKED.match(Path(root).name):
            yield from (Path(root) / name for name in sorted(directories))
            directories.clear()
        for name in sorted(names):
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _tree_used_at(tree: Path) -> float:
    """When a server last started a container with this client tree (seconds since the epoch)."""
    lock = tree.with_name(f"{tree.name}.lock")
    # One that is in use since before there were locks: it counts from now on.
    lock.touch() if not lock.exists() else None
    return lock.stat().st_mtime


def _used_at(path: Path) -> float:
    """When the youngest file of it was read or written (seconds since the epoch)."""
    # Not all are read when a package is installed: on some file systems their content is cloned.
    found = list(statuses(path))
    files = [status for status in found if not stat.S_ISDIR(status.st_mode)]
    return max((max(status.st_atime, status.st_mtime) for status in files or found), default=time.time())
