"""Harm to databases: SQLite's file locked by somebody else, PostgreSQL away or frozen for a while."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psutil

from tests.faults.processes import frozen
from tests.postgresql import Cluster


class SqliteFile:
    """longest: seconds for which it is locked at a time."""

    def __init__(self, path: Path, longest: float) -> None:
        self._path = path
        self._longest = longest

    def lock(self, choice: random.Random) -> bool:
        """As a backup by hand or somebody's shell does: nobody else can write."""
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=30)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(choice.uniform(0.5, self._longest))
            connection.execute("ROLLBACK")
        return True


class Postgresql:
    """longest: seconds for which it is away at a time."""

    def __init__(self, cluster: Cluster, longest: float) -> None:
        self._cluster = cluster
        self._longest = longest

    def restart(self, choice: random.Random) -> bool:
        """It ends at once, with all connections, and comes back after a while."""
        self._cluster.stop()
        time.sleep(choice.uniform(0.0, self._longest))
        self._cluster.start()
        return True

    def freeze(self, choice: random.Random) -> bool:
        """All of its processes stand still: connections stay open, and nothing answers."""
        head = psutil.Process(self._cluster.pid)
        with frozen([head, *head.children(recursive=True)]):
            time.sleep(choice.uniform(0.5, self._longest))
        return True
