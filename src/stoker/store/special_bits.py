"""Set-user-id and set-group-id bits of files, which have no place in a directory that the host shares with sandboxes."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_SPECIAL = stat.S_ISUID | stat.S_ISGID
_DEEPEST = 200  # levels, each of which takes an open file while what is below it is looked at


def remove_special_bits(root: Path) -> int:
    """Takes the bits from all files below `root`; how many had one. What is below changes meanwhile, so no path is followed: each directory is
    opened from the one above it, and each file before its bits are taken. Blocks the thread."""
    with suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(root, _DIRECTORY)
        try:
            return _remove_below(descriptor, 1)
        finally:
            os.close(descriptor)
    return 0


def _remove_below(directory: int, depth: int) -> int:
    count, below = 0, []
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):  # gone since, or no longer what it was
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    below.append(entry.name)
                elif stat.S_ISREG(status.st_mode) and status.st_mode & _SPECIAL:
                    count += _remove(directory, entry.name)
    for name in below if depth < _DEEPEST else ():
        with suppress(OSError):
            descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                count += _remove_below(descriptor, depth + 1)
            finally:
                os.close(descriptor)
    return count


def _remove(directory: int, name: str) -> int:
    descriptor = os.open(name, _FILE, dir_fd=directory)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) and mode & _SPECIAL:
            os.fchmod(descriptor, stat.S_IMODE(mode) & ~_SPECIAL)
            return 1
    finally:
        os.close(descriptor)
    return 0
