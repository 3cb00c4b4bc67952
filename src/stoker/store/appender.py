"""Small groups of rows, committed to SQLite on the thread that wants them stored: to wake another thread for them costs more than the commit.

With `synchronous=NORMAL` a commit only writes to the operating system's cache. What may wait for the disk is left to the database's writer:
checkpoints, large groups, and everything for a while after a commit that was slow.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

Rows = tuple[sa.Table, Sequence[tuple[Any, ...]]]
"""Rows for a table: each with all of its columns, in their order."""

_MOST_ROWS, _MOST_BYTES = 500, 256 << 10  # of one group
_SLOW_COMMIT, _REST = 0.05, 1.0  # seconds: after a commit slower than the first, the writer takes over for the second
_CHECKPOINT_COMMITS = 250  # a commit writes about four pages
_PLAIN_TYPES = (sa.String, sa.Integer, sa.Float, sa.Boolean, sa.LargeBinary)  # SQLite takes them as they are


class Appender:
    def __init__(self, path: str, want_checkpoint: Callable[[], None]) -> None:
        """`want_checkpoint` is called when the write-ahead log has grown. It must return at once, and `resume` be called after the checkpoint:
        only while nobody adds to the log can it be moved whole, and begun anew."""
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=0.0)
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON", "wal_autocheckpoint=0"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._want_checkpoint = want_checkpoint
        self._commits = 0
        self._resting_until = 0.0
        self._paused = False

    def commit(self, groups: Sequence[Rows]) -> bool:
        """Stores all rows in one transaction. False: nothing was stored, and the writer shall do it (and say what is wrong, if anything)."""
        started = time.monotonic()
        if self._paused or started < self._resting_until or not _is_small(groups):
            return False
        try:
            append(self._connection, groups)
        except sqlite3.Error:
            return False
        if time.monotonic() - started > _SLOW_COMMIT:
            self._resting_until = started + _REST
        self._commits += 1
        if self._commits % _CHECKPOINT_COMMITS == 0:
            self._paused = True
            self._want_checkpoint()
        return True

    def resume(self) -> None:
        self._paused = False

    def close(self) -> None:
        self._connection.close()


def append(connection: sqlite3.Connection, groups: Sequence[Rows]) -> None:
    """All rows in one transaction, past SQLAlchemy, which takes longer than SQLite itself. Raises sqlite3.Error; nothing is stored then."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for table, rows in groups:
            connection.executemany(_statement(table), rows)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have ended it already
            connection.execute("ROLLBACK")
        raise


_statements: dict[sa.Table, str] = {}


def _statement(table: sa.Table) -> str:
    """The INSERT as text. The table's columns must need no conversion."""
    if table not in _statements:
        if not all(isinstance(column.type, _PLAIN_TYPES) for column in table.columns):
            raise TypeError(f"rows of {table.name} cannot be appended: insert them")
        names = [column.name for column in table.columns]
        _statements[table] = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    return _statements[table]


def _is_small(groups: Sequence[Rows]) -> bool:
    rows = size = 0
    for _, group in groups:
        rows += len(group)
        size += sum(len(value) for row in group for value in row if isinstance(value, bytes))
    return rows <= _MOST_ROWS and size <= _MOST_BYTES
