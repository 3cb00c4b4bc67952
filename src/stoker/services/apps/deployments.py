"""The versions of deployed apps: what they were, and how to go back to one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from stoker.errors import FailedPrecondition, NotFound
from stoker.services.apps.apps import DEPLOYED, REQUEST, App, Apps, Publication
from stoker.services.functions.functions import Functions
from stoker.store import tables
from stoker.store.database import Database

STANDARD, ROLLBACK, ROLLOVER = "standard", "rollback", "rollover"
STAGED, PROMOTION = "staged", "promotion"


@dataclass(frozen=True)
class Deployment:
    """One version. `kind` is one of those above; `from_version` is what a rollback or a promotion made current, 0 for others."""

    app_id: str
    version: int
    deployed_at: float
    client_version: str
    tag: str
    function_ids: dict[str, str]
    class_ids: dict[str, str]
    definition_ids: dict[str, str]  # function id -> definition id
    details: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.details.get("kind", STANDARD))

    @property
    def from_version(self) -> int:
        return int(self.details.get("from_version", 0))

    @property
    def request(self) -> str:
        """What it was asked for by, "" when that is not known."""
        return str(self.details.get(REQUEST, ""))


class Deployments:
    """The history of deployed apps, read from the database when it is asked for. Asked by the RPCs of deployments and by canaries."""

    def __init__(self, *, database: Database, apps: Apps, functions: Functions) -> None:
        self._database = database
        self._apps = apps
        self._functions = functions

    def history(self, app_id: str) -> list[Deployment]:
        """All versions of an app, newest first; none for one that was never deployed. Raises NotFound for an unknown app."""
        self._apps.get(app_id)
        deployments = tables.deployments
        query = sa.select(deployments).where(deployments.c.app_id == app_id).order_by(deployments.c.version.desc())
        with self._database.read() as connection:
            return [Deployment(**row._asdict()) for row in connection.execute(query)]

    def current(self, app_id: str) -> Deployment | None:
        """The version that runs, which no staged one does; None for an app that was never deployed. Raises NotFound."""
        return next((d for d in self.history(app_id) if d.kind != STAGED), None)

    async def promote(self, app_id: str, version: int, *, request: str = "") -> App:
        """Deploys a staged version. request: names this request; its repeat changes nothing. Raises NotFound, or FailedPrecondition for one
        that was not staged."""
        app = self._deployed(app_id)
        if self._is_done(app_id, request):
            return app
        known = {d.version: d for d in self.history(app_id)}
        target = known.get(version)
        if target is None:
            raise unknown_version(app, version, known)
        if target.kind != STAGED:
            raise FailedPrecondition(
                f"v{version} was deployed, not staged (`modal deploy --staged`). `modal app rollback` goes back to a version."
            )
        return await self._publish(app, target, {"kind": PROMOTION, "from_version": version}, request)

    async def roll_back(self, app_id: str, version: int, *, request: str = "") -> App:
        """Makes an earlier version the newest one; a negative version counts back from now. request: as for `promote`.

        Raises NotFound or FailedPrecondition."""
        app = self._deployed(app_id)
        if self._is_done(app_id, request):
            return app
        known = {d.version: d for d in self.history(app_id) if d.kind != STAGED}
        newest = max(known)
        wanted = newest + version if version < 0 else version
        if wanted == newest:
            raise FailedPrecondition(
                f"v{newest} is what runs. `modal app rollover` starts its containers anew; `modal app history` shows other versions."
            )
        target = known.get(wanted)
        if target is None:
            if version < 0:
                raise NotFound(
                    f"The app {app.name!r} has only {len(known)} version(s), so there is none to go back to."
                )
            raise unknown_version(app, wanted, known)
        return await self._publish(app, target, {"kind": ROLLBACK, "from_version": wanted}, request)

    async def roll_over(self, app_id: str, *, request: str = "") -> App:
        """Deploys the newest version again, so that new containers replace all that run. request: as for `promote`.

        Raises NotFound or FailedPrecondition."""
        app = self._deployed(app_id)
        if self._is_done(app_id, request):
            return app
        newest = self.current(app_id)
        assert newest is not None
        return await self._publish(app, newest, {"kind": ROLLOVER}, request)

    async def _publish(self, app: App, target: Deployment, details: dict[str, object], request: str) -> App:
        definitions = {
            function_id: self._functions.copy_of(function_id, target.definition_ids.get(function_id, ""))
            for function_id in sorted(set(target.function_ids.values()))
        }
        publication = Publication(
            state=DEPLOYED,
            name=app.name,
            function_ids=target.function_ids,
            class_ids=target.class_ids,
            definition_ids={function_id: definition.id for function_id, definition in definitions.items()},
            client_version=target.client_version,
            tag=target.tag,
            details=details | {"commit": target.details.get("commit", "")},
            definitions=definitions,
            request=request,
        )
        return await self._apps.publish(app.id, publication)

    def _is_done(self, app_id: str, request: str) -> bool:
        """Whether there is a version that this request asked for: its answer was lost, and it comes again."""
        return bool(request) and any(d.request == request for d in self.history(app_id))

    def _deployed(self, app_id: str) -> App:
        app = self._apps.get(app_id)
        if app.state != DEPLOYED or self.current(app_id) is None:
            raise FailedPrecondition(f"The app {app.description or app.id} is not deployed, so it has no versions.")
        return app


def unknown_version(app: App, version: int, known: Collection[int]) -> NotFound:
    """What to raise for a version that is none of the `known` ones of an app."""
    it_has = f"it has v{min(known)} to v{max(known)}" if known else "it was never deployed"
    return NotFound(f"The app {app.name or app.id!r} has no version v{version}; {it_has}.")
