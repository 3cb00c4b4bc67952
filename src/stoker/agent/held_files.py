"""The files of Volumes that a container had open when it was saved. Restored ones open them again by name: are they still the same?"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from stoker.runtime.inspection import OpenFile, shown_path

_FILE = "volume-files.json"


def note(files: Iterable[OpenFile], places: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What to compare later. places: directories of the host, by where they are in the container. Blocks."""
    writable = {file.path for file in files if file.writable}
    notes = []
    for path in sorted({file.path for file in files}):
        status = _status(path, places)
        if status is not None:
            notes.append({"path": path, **_identity(status, grows=path in writable)})
    return notes


def write(snapshot: Path, notes: list[dict[str, Any]]) -> None:
    """Keeps the notes with the snapshot. Raises OSError."""
    if notes:
        (snapshot / _FILE).write_text(json.dumps(notes))


def changed(snapshot: Path, places: Mapping[str, Path]) -> str:
    """Says which file is another one than when the snapshot was made; empty when all are the same. Blocks."""
    try:
        notes = json.loads((snapshot / _FILE).read_text())
    except FileNotFoundError:
        return ""
    for before in notes:
        path = str(before["path"])
        status = _status(path, places)
        shown = shown_path(path)
        if status is None:
            return f"The file {shown}, which was open when it was made, is no longer on the Volume."
        if not _is_same(before, status):
            return f"The file {shown}, which was open when it was made, has changed since."
    return ""


def _identity(status: os.stat_result, *, grows: bool) -> dict[str, Any]:
    """What the container itself may write to may become longer; of what is no file only the place matters. The time of change (ctime) is
    that which no program can set."""
    known: dict[str, Any] = {"inode": status.st_ino}
    if stat.S_ISREG(status.st_mode):
        known["least" if grows else "size"] = status.st_size
        if not grows:
            known["changed"] = status.st_ctime_ns
    return known


def _is_same(before: Mapping[str, Any], now: os.stat_result) -> bool:
    same = {"inode": now.st_ino, "size": now.st_size, "changed": now.st_ctime_ns}
    return all(before.get(name, value) == value for name, value in same.items()) and now.st_size >= int(
        before.get("least", 0)
    )


def _status(path: str, places: Mapping[str, Path]) -> os.stat_result | None:
    """Of a path in the container. None for what is in no place, or does not exist. The container says what the path is, so no link is followed."""
    inner = PurePosixPath(path)
    around = [place for place in places if inner.is_relative_to(place)]
    if not around:
        return None
    place = max(around, key=len)
    parts = inner.relative_to(place).parts
    try:
        handle = os.open(places[place], os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for part in parts:
            if part == "..":
                return None
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = below
        return os.fstat(handle)
    except (OSError, ValueError):
        return None
    finally:
        os.close(handle)
