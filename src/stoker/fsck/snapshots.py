"""Memory snapshots."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from stoker.fsck.report import Report
from stoker.integrity import trees
from stoker.integrity.reading import Pace
from stoker.services.containers.snapshots import READY, SUMS, UNSETTLED
from stoker.services.telemetry.damages import SNAPSHOT
from stoker.store import tables


def check(
    directory: Path,
    engine: sa.Engine,
    report: Report,
    pace: Pace,
    progress: Callable[[str, int, int], None],
    writable: Callable[[], sa.Engine],
) -> None:
    """writable: the database, for what is healed."""
    snapshots, functions, apps = tables.snapshots, tables.functions, tables.apps
    joined = snapshots.outerjoin(functions, functions.c.id == snapshots.c.function_id)
    joined = joined.outerjoin(apps, apps.c.id == snapshots.c.app_id)
    query = sa.select(
        snapshots.c.id, snapshots.c.function_id, functions.c.name, apps.c.name.label("app"), apps.c.description
    ).select_from(joined)
    with engine.connect() as connection:
        rows = connection.execute(query.where(snapshots.c.state == READY)).all()
    for number, row in enumerate(rows):
        progress("memory snapshots", number, len(rows))
        path = directory / row.id
        report.checked[SNAPSHOT] += 1
        what = _look(path, report, pace)
        if what and _is_ready(engine, row.id):  # not removed by the server while it was read
            whose = f"the function {row.name} of the app {row.app or row.description}" if row.name else ""
            report.found(
                SNAPSHOT,
                row.id,
                f"The memory snapshot {row.id} is damaged: {what}.",
                depends=[whose or f"starts on the image {row.function_id}"],
                remedy="Remove it: its function starts cold once, and makes another.",
                heal=partial(_forget, row.id, path, writable),
            )


def _is_ready(engine: sa.Engine, snapshot_id: str) -> bool:
    query = sa.select(tables.snapshots.c.state).where(tables.snapshots.c.id == snapshot_id)
    with engine.connect() as connection:
        return connection.execute(query).scalar() == READY


def _look(path: Path, report: Report, pace: Pace) -> str:
    if not path.is_dir():
        return "its files are gone"
    try:
        return "; ".join(trees.check(path, path / SUMS, pace, leave_out=[UNSETTLED]))
    except FileNotFoundError:
        report.unknown[SNAPSHOT] += 1
        return ""
    except ValueError as error:
        return str(error)


def _forget(snapshot_id: str, path: Path, writable: Callable[[], sa.Engine]) -> None:
    engine = writable()
    try:
        with engine.begin() as connection:
            connection.execute(sa.delete(tables.snapshots).where(tables.snapshots.c.id == snapshot_id))
    finally:
        engine.dispose()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
