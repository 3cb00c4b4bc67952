"""Files of volumes and network file systems that clients uploaded. What containers wrote has no digests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from stoker.errors import StokerError
from stoker.fsck.dependents import Dependents
from stoker.fsck.report import Report
from stoker.integrity.blocks import DIGEST_BYTES, TrimmedSums
from stoker.integrity.reading import Pace
from stoker.services.files.volume_sums import FileSums
from stoker.services.telemetry.damages import VOLUME_FILE
from stoker.store import tables
from stoker.store.assembly import BLOCK_BYTES
from stoker.store.filetree import FileTree, parts_of

_PIECE = 1 << 20


def check(
    directory: Path,
    engine: sa.Engine,
    report: Report,
    pace: Pace,
    progress: Callable[[str, int, int], None],
    dependents: Dependents,
) -> None:
    names, writers, sums = _names(engine), _writers(engine), tables.volume_sums
    with engine.connect() as connection:
        count: int = connection.execute(sa.select(sa.func.count()).select_from(sums)).scalar_one()
        rows = connection.execute(sa.select(sums).execution_options(yield_per=100))
        for number, row in enumerate(rows):
            progress("files of volumes", number, count)
            file = FileSums(**row._asdict())
            if file.volume_id not in names:
                continue
            report.checked[VOLUME_FILE] += 1
            what = _look(
                FileTree(directory / file.volume_id, names[file.volume_id]),
                file,
                writers.get(file.volume_id, 0.0),
                pace,
            )
            if what == _CHANGED:
                report.unknown[VOLUME_FILE] += 1
            elif what and _is_still_known(engine, file):
                name = names[file.volume_id]
                report.found(
                    VOLUME_FILE,
                    f"{file.volume_id}/{file.path}",
                    f"The file {file.path!r} of {name} is damaged on the server's disk: {what}.",
                    depends=[f"{name}, path {file.path!r}", *dependents.of([file.volume_id])],
                    remedy="Upload it again, or restore it from a backup.",
                )
    for volume_id, name in sorted(names.items()):
        if not (directory / volume_id).is_dir() and any(True for _ in _files_of(engine, volume_id)):
            report.found("volume", volume_id, f"The directory of {name} is gone.", depends=dependents.of([volume_id]))
    _note_strays(directory, names, report)


_CHANGED = "changed"


def _look(tree: FileTree, file: FileSums, written_until: float, pace: Pace) -> str:
    """What is wrong with a file, as a part of a sentence; `_CHANGED` when a container may have changed it."""
    try:
        with tree.file(parts_of(file.path)) as descriptor:
            status = os.fstat(descriptor)
            if not file.are_of(status) and status.st_ctime <= written_until:
                return _CHANGED
            if status.st_size != file.size:
                return f"it has {status.st_size} bytes and had {file.size}"
            return _compare(descriptor, file, pace)
    except (StokerError, FileNotFoundError):
        return "it is gone" if _last_change(tree.root, file.path) > written_until else _CHANGED
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _is_still_known(engine: sa.Engine, file: FileSums) -> bool:
    """Whether a server has not replaced or removed the file while it was read."""
    sums = tables.volume_sums
    query = sa.select(sums).where(sums.c.volume_id == file.volume_id, sums.c.path_key == file.path_key)
    with engine.connect() as connection:
        row = connection.execute(query).first()
    return row is not None and FileSums(**row._asdict()) == file


def _last_change(root: Path, path: str) -> float:
    """When the nearest directory that is left of a path was changed, such as by the removal of what was below."""
    for parent in (root / path).parents:
        with contextlib.suppress(OSError):
            return os.lstat(parent).st_mtime
        if parent == root:
            break
    return 0.0


def _compare(descriptor: int, file: FileSums, pace: Pace) -> str:
    sums, offset = TrimmedSums(BLOCK_BYTES), 0
    while piece := os.pread(descriptor, _PIECE, offset):
        sums.update(piece)
        pace.count(len(piece))
        offset += len(piece)
    found = sums.digests()
    wrong = [
        n // DIGEST_BYTES * BLOCK_BYTES
        for n in range(0, len(file.sums), DIGEST_BYTES)
        if found[n : n + DIGEST_BYTES] != file.sums[n : n + DIGEST_BYTES]
    ]
    return (
        f"its blocks of 8 MiB at {', '.join(map(str, wrong[:5]))} have another SHA-256 than was uploaded"
        if wrong
        else ""
    )


def _names(engine: sa.Engine) -> dict[str, str]:
    found = {}
    with engine.connect() as connection:
        for table, noun in ((tables.volumes, "volume"), (tables.shared_volumes, "network file system")):
            for row in connection.execute(sa.select(table.c.id, table.c.name)):
                found[row.id] = f"the {noun} {row.name!r}" if row.name else f"the {noun} {row.id}"
    return found


def _writers(engine: sa.Engine) -> dict[str, float]:
    with engine.connect() as connection:
        return {row.volume_id: row.until for row in connection.execute(sa.select(tables.volume_writers))}


def _files_of(engine: sa.Engine, volume_id: str) -> list[str]:
    query = sa.select(tables.volume_sums.c.path).where(tables.volume_sums.c.volume_id == volume_id).limit(1)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def _note_strays(directory: Path, names: dict[str, str], report: Report) -> None:
    found = [p.name for p in directory.iterdir() if p.name[:3] in ("vo-", "sv-")] if directory.is_dir() else []
    strays = sorted(set(found) - names.keys())
    if strays:
        report.notes.append(
            f"{len(strays)} directories in {directory} belong to no volume that the database knows of ({', '.join(strays[:5])}). They may be of "
            "another state of the database; nothing removes them by itself."
        )
