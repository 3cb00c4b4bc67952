"""All parts of a data directory, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import sqlalchemy as sa

from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.errors import FailedPrecondition, StokerError
from stoker.fsck import blobs, contents, database, images, keys, marks, snapshots, volumes
from stoker.fsck.dependents import Dependents
from stoker.fsck.report import Report
from stoker.integrity.reading import Pace
from stoker.services.images.images import READY
from stoker.store import tables

Progress = Callable[[str, int, int], None]
"""Called with what is looked at, how many were looked at, and how many there are (0: not known)."""


class Examination:
    """Of one directory. `progress` is called often."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        """Raises PermissionDenied or FailedPrecondition when nothing can be looked at."""
        self.data = DataDir(settings.data)
        self.data.check_readable()
        self.server = self.data.locked()
        self.report = Report()
        self._settings = settings
        self._progress = progress
        self._pace = Pace(direct=True)

    def run(self) -> Report:
        """Looks at everything. Changes nothing. Blocks. Raises FailedPrecondition when there is nothing to look at."""
        if not self.data.database.exists() and not self.data.token_file.exists() and not any(self.data.path.glob("*")):
            raise FailedPrecondition(
                f"{self.data.path} holds nothing of a server. Name its data directory with --data."
            )
        report, data, pace = self.report, self.data, self._pace
        self._progress("keys and records", 0, 0)
        keys.check(data, report)
        self._progress("database", 0, 0)
        engine = database.open_database(self._settings.database_url, data.database, report, server=self.server)
        dependents = Dependents(engine) if engine is not None else None
        try:
            if engine is not None and dependents is not None:
                self._with_database(engine, dependents)
            contents.check(data.files, report, pace, self._progress, dependents)
            images.check(data.images, report, pace, self._progress, dependents, _built(engine))
        finally:
            if engine is not None:
                engine.dispose()
        report.bytes_read = pace.read
        return report

    def fix(self) -> None:
        """Heals what can be healed. Raises FailedPrecondition while a server runs on the directory."""
        if self.server:
            raise FailedPrecondition(
                f"A server runs on {self.data.path}. Stop it with `stoker down` before its files are put right (--fix)."
            )
        self.data.lock()
        try:
            for problem in self.report.problems:
                if problem.heal is not None:
                    try:
                        problem.heal()
                        problem.healed = True
                    except (StokerError, OSError, sa.exc.SQLAlchemyError) as error:
                        problem.heal_error = str(error)
            marks.store(self._settings, self.data, self.report)
        finally:
            self.data.unlock()

    def _with_database(self, engine: sa.Engine, dependents: Dependents) -> None:
        report, data, pace = self.report, self.data, self._pace
        keys.check_secrets(self._settings, data, engine, report)
        asyncio.run(blobs.check(self._settings, data, engine, report, pace, self._progress, dependents))
        contents.check_trees(data.mounts, report, pace, self._progress, dependents)
        volumes.check(data.volumes, engine, report, pace, self._progress, dependents)
        snapshots.check(data.snapshots, engine, report, pace, self._progress, self._writable)

    def _writable(self) -> sa.Engine:
        """For what heals rows of the database."""
        url = self._settings.database_url or f"sqlite:///{self.data.database}"
        return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))


def _built(engine: sa.Engine | None) -> set[str]:
    """The images that count as built."""
    if engine is None:
        return set()
    with engine.connect() as connection:
        return set(connection.execute(sa.select(tables.images.c.id).where(tables.images.c.state == READY)).scalars())
