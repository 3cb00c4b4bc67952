"""Large arguments and results."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.errors import Damaged, NotFound, StokerError
from stoker.fsck.dependents import Dependents
from stoker.fsck.report import Report
from stoker.integrity.blocks import verified
from stoker.integrity.reading import Pace
from stoker.services.telemetry.damages import BLOB
from stoker.store import tables
from stoker.store.blobs import BlobStore


async def check(
    settings: Settings,
    data: DataDir,
    engine: sa.Engine,
    report: Report,
    pace: Pace,
    progress: Callable[[str, int, int], None],
    dependents: Dependents,
) -> None:
    blobs = tables.blobs
    with engine.connect() as connection:
        rows = connection.execute(sa.select(blobs.c.id, blobs.c.size, blobs.c.sums).where(blobs.c.complete)).all()
    store = BlobStore.open(settings.blob_store, data.blobs)
    wrong: dict[str, str] = {}
    for number, row in enumerate(rows):
        progress("blobs", number, len(rows))
        report.checked["blob"] += 1
        report.unknown["blob"] += row.sums is None
        try:
            what = await _look(store, row.id, row.size, row.sums, pace)
        except (StokerError, OSError) as error:
            what = f"it cannot be read ({error})"
        if what and _is_complete(engine, row.id):  # not deleted by the server while it was read
            wrong[row.id] = what
    depends = dependents.of_blobs(wrong)
    for blob_id, what in wrong.items():
        report.found(
            BLOB,
            blob_id,
            f"The blob {blob_id}, which holds a large argument or result, is damaged on the server's disk: {what}.",
            depends=depends[blob_id],
            remedy="Call the function again, or restore the blob from a backup.",
        )
    if not settings.blob_store:
        _note_leftovers(data, {row.id for row in rows}, report)


async def _look(store: BlobStore, blob_id: str, size: int, sums: bytes | None, pace: Pace) -> str:
    """What is wrong with a blob, as a part of a sentence."""
    if not size:
        return "" if await store.has(blob_id) else "its file is gone"
    pieces = store.read(blob_id, 0, size, size=size)
    if sums is not None:
        pieces = verified(pieces, sums, size=size, start=0, end=size, damaged=Damaged)
    try:
        async for piece in pieces:
            pace.count(len(piece))
    except NotFound:
        return "its file is gone"
    except Damaged as error:
        return str(error).rstrip(".")
    return ""


def _is_complete(engine: sa.Engine, blob_id: str) -> bool:
    with engine.connect() as connection:
        return bool(connection.execute(sa.select(tables.blobs.c.complete).where(tables.blobs.c.id == blob_id)).scalar())


def _note_leftovers(data: DataDir, known: set[str], report: Report) -> None:
    strays = [path for path in data.blobs.iterdir() if path.is_file() and path.name not in known]
    if strays:
        size = sum(path.stat().st_size for path in strays)
        report.notes.append(
            f"{len(strays)} files in {data.blobs} ({size >> 20} MiB) belong to no blob that the database knows of as complete: uploads that "
            "were not finished, or blobs of another state of the database."
        )
    staging = data.blobs / ".staging"
    parts = [path for path in staging.iterdir() if path.is_file()] if staging.is_dir() else []
    if parts:
        report.notes.append(f"{len(parts)} parts of uploads are not finished; the server removes them after two days.")
