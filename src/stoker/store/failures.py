"""Failures of the database that are no defects: a full disk and a database that does not answer, which callers can wait out, and a damaged one."""

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
_RETRY_FULL = 5.0  # seconds


def explain(error: BaseException) -> BaseException:
    """What the caller is told: ResourceExhausted, Unavailable, Damaged, or the error itself when it is something else."""
    cause: Any = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(cause, sqlite3.DatabaseError) and any(words in str(cause) for words in _DAMAGED):
        return Damaged(
            f"The server's database is damaged ({_first_line(cause)}). Stop the server and restore its data directory from a backup; "
            "`stoker fsck` shows what is damaged."
        )
    if isinstance(cause, sqlite3.OperationalError):
        return _full("The server's disk") if "full" in str(cause) else error
    if not isinstance(error, sa.exc.DBAPIError) or isinstance(cause, sqlite3.Error):
        return error
    code = getattr(cause, "sqlstate", None)
    if code == _FULL:
        return _full("The disk of the server's database")
    # One that could not be reached at all gave no code.
    unreachable = code is None and isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))
    if error.connection_invalidated or unreachable or (code or "").startswith(_PASSING):
        return Unavailable(
            f"The server's database does not answer ({_first_line(cause)}); the request may be repeated."
        )
    return error


def _full(disk: str) -> ResourceExhausted:
    return ResourceExhausted(
        f"{disk} is full, so nothing can be stored. Free some space; the request may then be repeated.", _RETRY_FULL
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
