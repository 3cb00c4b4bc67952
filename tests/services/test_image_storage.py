"""Which images `stoker gc` may free: real rows, and a builder that says what it was told to keep."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from stoker.nodes.builds import Leftover
from stoker.services.images.images import Images
from stoker.services.upkeep.image_storage import ImageStorage
from stoker.store import tables
from stoker.store.database import Database

DAY = 86_400.0


class Builds:
    """A node's, which would free three images whatever it was told to keep."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.before = 0.0
        self.freed: list[str] = []

    async def leftovers(self, keep: Collection[str], before: float) -> Sequence[Leftover]:
        self.kept, self.before = set(keep), before
        return [Leftover("image", name, 1) for name in ("im-deployed", "im-unused", "im-stale-base")]

    async def free(self, item: Leftover) -> bool:
        self.freed.append(item.name)
        return True

    async def tidy(self) -> None: ...


def test_images_in_use_stay_with_all_they_are_built_on(tmp_path: Path) -> None:
    async def body() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        try:
            await database.write(_fill)
            builds: Any = Builds()
            removed: list[str] = []
            now = time.time()
            snapshots = [
                _snapshot("ch-1", "ap-dead", "fu-dead", "de-snapshot", now - 90 * DAY),
                _snapshot("ch-2", "", "im-fresh-base", "base", now),
                _snapshot("ch-3", "", "im-stale-base", "base", now - 90 * DAY),
            ]
            images = Images(database, builds)
            apps: Any = SimpleNamespace(
                all=lambda: [SimpleNamespace(id="ap-1", is_over=False), SimpleNamespace(id="ap-dead", is_over=True)]
            )
            storage = ImageStorage(
                database=database,
                builds=builds,
                images=images,
                apps=apps,
                functions=SimpleNamespace(of_app=lambda _: []),  # type: ignore[arg-type]
                scheduler=SimpleNamespace(tasks=lambda: [SimpleNamespace(definition_id="de-running")]),  # type: ignore[arg-type]
                snapshots=SimpleNamespace(all=lambda: snapshots, remove=removed.append),  # type: ignore[arg-type]
                wire=SimpleNamespace(parse_definition=lambda text, _: SimpleNamespace(image_id=text.decode())),  # type: ignore[arg-type]
            )
            await storage.free(30 * DAY, dry_run=True)
            assert builds.kept == {
                *("im-deployed", "im-below", "im-rollback", "im-running", "im-snapshot", "im-fresh-base", "im-named")
            }
            assert abs(builds.before - (now - 30 * DAY)) < 60
            assert not builds.freed, "it was only to look"
            await storage.free(0, dry_run=False)
            assert builds.before < now - 3000, "the next layer of what was just built may be under way"
            assert builds.freed == ["im-unused", "im-stale-base"]
            assert removed == ["ch-3"]
            assert images.running() == {"im-running"}
            with database.read() as connection:
                left = set(connection.scalars(sa.select(tables.images.c.id)))
            assert left == {"im-deployed", "im-below"}
        finally:
            await database.close()

    asyncio.run(body())


def _snapshot(id: str, app_id: str, function_id: str, definition_id: str, used_at: float) -> SimpleNamespace:
    return SimpleNamespace(
        id=id, app_id=app_id, function_id=function_id, definition_id=definition_id, used_at=used_at, users=set()
    )


def _fill(connection: sa.Connection) -> None:
    for name in ("deployed", "rollback", "running", "snapshot", "dead"):
        row = {"id": f"de-{name}", "function_id": "fu-1", "definition": f"im-{name}".encode(), "created_at": 0.0}
        connection.execute(sa.insert(tables.definitions), [row])
    for app, definition in (("ap-1", "de-deployed"), ("ap-dead", "de-dead")):
        row = {"id": f"fu-{app}", "app_id": app, "name": "f", "definition_id": definition, "created_at": 0.0}
        connection.execute(sa.insert(tables.functions), [row])
    old = {"app_id": "ap-1", "version": 1, "deployed_at": 0.0, "function_ids": {}, "class_ids": {}}
    connection.execute(sa.insert(tables.deployments), [old | {"definition_ids": {"fu-ap-1": "de-rollback"}}])
    name = {"id": "ir-1", "environment_id": "en-1", "tag": "a:b", "image_id": "im-named", "created_at": 0.0}
    connection.execute(sa.insert(tables.image_revisions), [name])
    for image, bases in (("im-deployed", {"base": "im-below"}), ("im-below", {}), ("im-unused", {})):
        spec = json.dumps({"bases": bases}).encode()
        row = {"id": image, "spec": spec, "state": "ready", "created_at": 0.0}
        connection.execute(sa.insert(tables.images), [row])
