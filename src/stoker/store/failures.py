"""Failures of the database that are no defects: a disk that takes nothing and a database that does not answer, which callers can wait out, and
a damaged one."""

from __future__ import annotations

import sqlite3
from typing import Any

import sqlalchemy as sa

from stoker.errors import Damaged, ResourceExhausted, Unavailable

_FULL = "53100"
# PostgreSQL's classes and codes: connection, transaction called off, resources, shutting down or starting; a standby takes no changes.
_PASSING = ("08", "40", "53", "57P", "25006")
# SQLite's words: a page, the head, a schema, or a file that the disk does not give.
_DAMAGED = ("malformed", "not a database", "disk I/O error", "unsupported file format")
# SQLite's codes for what it could not write or make larger, which it calls "disk I/O error" like a page that it cannot read: beyond a quota or a
# limit for files, or its index of the log on a full disk. Python 3.10 does not give them: IOERR_ WRITE, FSYNC, DIR_FSYNC, TRUNCATE, SHMOPEN, SHMSIZE.
_NOT_WRITTEN = (778, 1034, 1290, 1546, 4618, 4874)
_AWAY = ("is locked", "unable to open")  # SQLite's words: by another program; too many files are open
_RETRY_FULL = 5.0  # seconds


def explain(error: BaseException) -> BaseException:
    """What the caller is told: ResourceExhausted, Unavailable, Damaged, or the error itself when it is something else."""
    cause: Any = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) in _NOT_WRITTEN:
        return ResourceExhausted(
            f"The server's disk does not take what is written ({_first_line(cause)}): it is full, over a quota or broken, so nothing can be "
            "stored. See to it; the request may then be repeated.",
            _RETRY_FULL,
        )
    if isinstance(cause, sqlite3.DatabaseError) and any(words in str(cause) for words in _DAMAGED):
        return Damaged(
            f"The server's database is damaged ({_first_line(cause)}). Stop the server and restore its data directory from a backup; "
            "`stoker fsck` shows what is damaged."
        )
    if isinstance(cause, sqlite3.OperationalError):
        if "full" in str(cause):
            return _full("The server's disk")
        return _away(cause) if any(words in str(cause) for words in _AWAY) else error
    if not isinstance(error, sa.exc.DBAPIError) or isinstance(cause, sqlite3.Error):
        return error
    code = getattr(cause, "sqlstate", None)
    if code == _FULL:
        return _full("The disk of the server's database")
    # One that could not be reached at all gave no code.
    unreachable = code is None and isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))
    if error.connection_invalidated or unreachable or (code or "").startswith(_PASSING):
        return _away(cause)
    return error


def _away(cause: BaseException) -> Unavailable:
    return Unavailable(f"The server's database does not answer ({_first_line(cause)}); the request may be repeated.")


def _full(disk: str) -> ResourceExhausted:
    return ResourceExhausted(
        f"{disk} is full, so nothing can be stored. Free some space; the request may then be repeated.", _RETRY_FULL
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
