"""Which images are in use, and what goes of those that are not (`stoker gc`)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from stoker.batches import batches
from stoker.nodes.base import Builds
from stoker.nodes.builds import Leftover
from stoker.services.apps.apps import Apps
from stoker.services.containers.snapshots import Snapshots
from stoker.services.functions.functions import Functions
from stoker.services.functions.wire import Wire
from stoker.services.images.images import Images
from stoker.services.pools.scheduler import Scheduler
from stoker.store import tables
from stoker.store.database import Database

_SHORTEST = 3600.0  # seconds; of what was just built the next layer may be under way
_ROLLBACKS = 10  # deployments of an app whose images are kept


class ImageStorage:
    """Knows which images are of use, which no other service knows alone. Made by the composition root; asked by `stoker gc`."""

    def __init__(
        self,
        *,
        database: Database,
        builds: Builds,
        images: Images,
        apps: Apps,
        functions: Functions,
        scheduler: Scheduler,
        snapshots: Snapshots,
        wire: Wire,
    ) -> None:
        self._database = database
        self._builds = builds
        self._images = images
        self._apps = apps
        self._functions = functions
        self._scheduler = scheduler
        self._snapshots = snapshots
        self._wire = wire
        images.running = self.running

    async def free(self, seconds: float, *, dry_run: bool) -> Sequence[Leftover]:
        """Frees what nobody used for so long; what is gone, or would go. Raises FailedPrecondition while images are being built."""
        before = time.time() - max(seconds, _SHORTEST)
        keep = self._images.bases(self._used(before))

        found = await self._builds.leftovers(sorted(keep), before)
        if dry_run:
            return found
        await self._builds.tidy()  # refuses during builds, before anything is forgotten
        gone = [item for item in found if await self._may_go(item, before) and await self._builds.free(item)]
        await self._builds.tidy()
        return gone

    async def _may_go(self, item: Leftover, before: float) -> bool:
        """Whether it is still of no use. An image is forgotten before its files go, so that nothing starts from it."""
        if item.kind != "image":
            return True
        # Asked again: much may have begun since.
        if item.name in self._images.bases(self._used(before)):
            return False
        for snapshot in self._snapshots.all():
            if not snapshot.app_id and snapshot.function_id == item.name:
                self._snapshots.remove(snapshot.id)
        return await self._images.forget(item.name)

    def running(self) -> set[str]:
        """The images of containers that are there or being started."""
        return self._of_definitions(task.definition_id for task in self._scheduler.tasks())

    def _used(self, before: float) -> set[str]:
        """Images of containers, of the latest deployments of apps that are not over, of snapshots and of names."""
        alive = [app.id for app in self._apps.all() if not app.is_over]
        definitions = {task.definition_id for task in self._scheduler.tasks()}
        used: set[str] = set()
        for app_id in alive:
            for function in self._functions.of_app(app_id):
                definitions.update(d.id for d in (function.current, function.staged) if d is not None)
        for snapshot in self._snapshots.all():
            if snapshot.app_id:
                definitions.add(snapshot.definition_id)
            elif snapshot.users or snapshot.used_at >= before:
                used.add(snapshot.function_id)  # the base of an image, which is of use for that alone
        with self._database.read() as connection:
            for part in batches(alive):
                functions, deployments = tables.functions.c, tables.deployments.c
                current = sa.select(functions.definition_id).where(functions.app_id.in_(part))
                definitions.update(connection.scalars(current))
                query = sa.select(deployments.app_id, deployments.definition_ids).where(deployments.app_id.in_(part))
                count: dict[str, int] = {}
                for app_id, ids in connection.execute(query.order_by(deployments.version.desc())):
                    count[app_id] = count.get(app_id, 0) + 1
                    if count[app_id] <= _ROLLBACKS:
                        definitions.update(ids.values())
            used.update(connection.scalars(sa.select(tables.image_revisions.c.image_id)))
        return used | self._of_definitions(definitions)

    def _of_definitions(self, ids: Iterable[str]) -> set[str]:
        used: set[str] = set()
        definitions = tables.definitions.c
        with self._database.read() as connection:
            for part in batches([definition_id for definition_id in set(ids) if definition_id]):
                query = sa.select(definitions.definition).where(definitions.id.in_(part))
                used.update(self._wire.parse_definition(text, b"").image_id for text in connection.scalars(query))
        return used
