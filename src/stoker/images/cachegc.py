"""What of the cache directory is not worth its room any more. Nothing in it is the only copy of anything, and no container uses what is
named here: client trees, which containers have as layers, are left alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNFINISHED_AFTER = 86_400.0  # seconds; nobody makes a base or waits for a download so long


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
            found.append(Rubbish(path, "left by a build that was killed", _size(path)))
        elif path.is_dir() and not path.name.startswith(".") and age > base_seconds:
            found.append(Rubbish(path, "a base that the next build would make anew", _size(path)))
    for name in ("downloads", "uv", "tools"):
        for path in _files(cache / name):
            status = path.lstat()
            if now - max(status.st_atime, status.st_mtime) > download_seconds:
                found.append(Rubbish(path, "a download that was not used for long", status.st_blocks * 512))
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
            shutil.rmtree(rubbish.path, ignore_errors=True)
    else:
        rubbish.path.unlink(missing_ok=True)
    return not os.path.lexists(rubbish.path)


def _entries(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(directory.iterdir())


def _files(directory: Path) -> Iterator[Path]:
    for root, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _size(path: Path) -> int:
    return sum(p.lstat().st_blocks * 512 for p in (path, *path.rglob("*")))
