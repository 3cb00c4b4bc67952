"""The database: whether it can be opened and read, and whether its log ends where it should."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from stoker.errors import StokerError
from stoker.fsck.report import Report
from stoker.integrity import wal
from stoker.store import tables
from stoker.store.failures import explain

_BACKUP = "Restore the data directory from a backup, as docs/operate.md says under Backup."


def open_database(url: str, file: Path, report: Report, *, server: bool) -> sa.Engine | None:
    """The database, to be read only; None when it cannot be. url: of the setting database_url, "" for `file`. server: whether one runs."""
    if url:
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
        return engine if _is_readable(engine, "the database of the setting database_url", report) else None
    if not file.exists() or not file.stat().st_size:
        wal_left = file.with_name(f"{file.name}-wal")
        if file.exists() or wal_left.exists():
            what = "is empty" if file.exists() else "is gone, though its log is there"
            report.found("database", str(file), f"It {what}: all that the server knew is lost.", remedy=_BACKUP)
        return None
    if not server:
        _check_log(file.with_name(f"{file.name}-wal"), report)
    engine = sa.create_engine(f"sqlite:///file:{quote(str(file))}?mode=ro&uri=true")
    if not _is_readable(engine, str(file), report):
        return None
    report.checked["database"] += 1
    with engine.connect() as connection:
        faults = [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check(10)")]
    if faults != ["ok"]:
        report.found("database", str(file), f"SQLite finds it damaged: {'; '.join(faults)}.", remedy=_BACKUP)
    return engine


def _check_log(path: Path, report: Report) -> None:
    state = wal.examine(path)
    if state.problem:
        report.found(
            "database",
            str(path),
            f"The log of the database is damaged: {state.problem}. The changes in these are lost; SQLite leaves them out without a word.",
            remedy=f"What was done last may be missing: look at it, or do this: {_BACKUP[0].lower()}{_BACKUP[1:]}",
        )


def _is_readable(engine: sa.Engine, name: str, report: Report) -> bool:
    try:
        with engine.connect() as connection:
            version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            missing = [t.name for t in tables.metadata.sorted_tables if not sa.inspect(connection).has_table(t.name)]
    except sa.exc.DBAPIError as error:
        reason = explain(error)
        told = str(reason) if isinstance(reason, StokerError) else str(error.orig)
        report.found("database", name, f"It cannot be read: {told}", remedy=_BACKUP)
        return False
    if missing:
        report.notes.append(
            f"The database is of another version ({version}) and lacks {', '.join(missing)}: what is in files was not compared with it. Start "
            "the server once, which brings it up to date, and look again."
        )
        return False
    return True
