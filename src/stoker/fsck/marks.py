"""What a server shall know of damages when it starts: it then answers for them at once, and those that are whole again are served."""

from __future__ import annotations

import time

import sqlalchemy as sa

from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.fsck.report import Report
from stoker.services.telemetry.damages import BLOB, LAYER, VOLUME_FILE, Damage, damage_id
from stoker.services.telemetry.damages import store as store_damage
from stoker.store import tables

_ANSWERED_FOR = (BLOB, VOLUME_FILE, LAYER)


def store(settings: Settings, data: DataDir, report: Report) -> None:
    """Replaces what was noted before. Does nothing without a database that could be read."""
    if any(problem.kind == "database" for problem in report.problems) or not (
        settings.database_url or data.database.exists()
    ):
        return
    url = settings.database_url or f"sqlite:///{data.database}"
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with engine.begin() as connection:
            if not sa.inspect(connection).has_table(tables.damages.name):
                return
            connection.execute(sa.delete(tables.damages))
            for problem in report.problems:
                if problem.kind in _ANSWERED_FOR and not problem.healed:
                    detail = f"{problem.detail} {problem.remedy}"
                    key = damage_id(problem.kind, problem.name)
                    store_damage(connection, Damage(key, problem.kind, problem.name, detail, time.time()))
    finally:
        engine.dispose()
