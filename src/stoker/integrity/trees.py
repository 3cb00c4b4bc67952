"""The digests of a directory tree, kept in a file: what lies there, and what it was when they were made."""

from __future__ import annotations

import errno
import gzip
import json
import os
import stat
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from stoker.integrity.reading import Pace, sha256

_VERSION = 1
_LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the machine, and no damage
_MOST_TOLD = 20  # things that are wrong with one tree


def settle(root: Path) -> None:
    """What is in `root` is on the disk afterwards. Blocks. Raises OSError."""
    for path, status in _entries(root):
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            _sync(root / path)
    _sync(root)


def write(root: Path, target: Path, pace: Pace, *, leave_out: Collection[str] = ()) -> None:
    """Makes the digests of what is in `root` now, but for `target` itself and these paths. Blocks. Raises OSError, CalledOff."""
    temporary = target.with_name(f"{target.name}.new")
    left_out = {*leave_out, *(os.path.relpath(path, root) for path in (target, temporary))}
    with gzip.open(temporary, "wt", encoding="utf-8", compresslevel=1) as file:
        count = 0
        file.write(json.dumps({"version": _VERSION}) + "\n")
        for path, status in _entries(root):
            pace.entry()
            if path not in left_out:
                file.write(json.dumps([path, *_described(root / path, status, pace)]) + "\n")
                count += 1
        file.write(json.dumps({"entries": count}) + "\n")
    _sync(temporary)
    os.replace(temporary, target)


def check(root: Path, target: Path, pace: Pace, *, leave_out: Collection[str] = ()) -> Iterator[str]:
    """What is in `root` and is not as it was when `target` was written, as parts of sentences; nothing when all is well. leave_out: as for
    `write`. Blocks. Raises FileNotFoundError when there are no digests, ValueError when they are damaged themselves, OSError when it cannot be
    looked at just now, CalledOff."""
    known = _read(target)
    left_out = {*leave_out, *(os.path.relpath(path, root) for path in (target, target.with_name(f"{target.name}.new")))}
    told = 0
    try:
        for path, status in _entries(root):
            pace.entry()
            if path in left_out:
                continue
            wanted = known.pop(path, None)
            wrong = _difference(root / path, status, wanted, pace)
            if wrong:
                told += 1
                if told <= _MOST_TOLD:
                    yield f"{path} {wrong}"
    except OSError as error:
        if error.errno == errno.ENOENT or error.errno in _LACKS:
            raise
        yield f"{os.path.relpath(error.filename or root, root)} cannot be read ({error.strerror})"
        return
    missing = sorted(known)
    for path in missing[: max(0, _MOST_TOLD - told)]:
        yield f"{path} is gone"
    if told + len(missing) > _MOST_TOLD:
        yield f"and {told + len(missing) - _MOST_TOLD} more"


def _difference(path: Path, status: os.stat_result, wanted: list[Any] | None, pace: Pace) -> str:
    if wanted is None:
        return "was not there before"
    kind, _, size, content = wanted
    if kind == "file" and stat.S_ISREG(status.st_mode) and status.st_size != size:
        return f"has {status.st_size} bytes and had {size}"
    try:
        found = _described(path, status, pace)
    except OSError as error:
        if error.errno in _LACKS:
            raise
        return f"cannot be read ({error.strerror})"
    if found == wanted:
        return ""
    if found[0] != kind:
        return f"is a {found[0]} and was a {kind}"
    return "has another SHA-256 than it had" if found[3] != content else "has other permissions than it had"


def _described(path: Path, status: os.stat_result, pace: Pace) -> list[Any]:
    """[kind, permissions, bytes, content]"""
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        return ["file", mode, status.st_size, sha256(path, pace)]
    if stat.S_ISLNK(status.st_mode):
        return ["link", mode, 0, os.readlink(path).encode("utf-8", "surrogateescape").hex()]
    if stat.S_ISDIR(status.st_mode):
        return ["directory", mode, 0, ""]
    return ["device", mode, 0, f"{stat.S_IFMT(status.st_mode)} {status.st_rdev}"]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All that is below, by paths relative to it."""
    waiting = [""]
    while waiting:
        current = waiting.pop()
        with os.scandir(root / current) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                path = os.path.join(current, entry.name)
                yield path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def _read(target: Path) -> dict[str, list[Any]]:
    try:
        with gzip.open(target, "rt", encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        head, *entries, end = lines
        if head != {"version": _VERSION} or end != {"entries": len(entries)}:
            raise ValueError("they are not complete")
        return {path: description for path, *description in entries}
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, TypeError) as error:
        raise ValueError(f"the digests in {target} are damaged themselves ({error})") from None
