"""Canaries: another version of an app gets a part of the inputs, until it is promoted or called off.

An input goes by its id, so a retry and a restart of the server send it the same way. Each function of the version has a *twin*: a function
with the other definition and a pool of its own. Twins live in memory; what is kept is which app has which canary.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from stoker.aio.jobs import Jobs
from stoker.errors import FailedPrecondition, InvalidArgument, NotFound
from stoker.services.apps.apps import DEPLOYED, App, Apps
from stoker.services.apps.deployments import STAGED, Deployments, unknown_version
from stoker.services.functions.functions import Functions
from stoker.services.functions.spec import Definition, Function
from stoker.store import tables
from stoker.store.database import Change, Database

_KEY = "canary/"


@dataclass(frozen=True)
class Canary:
    """`percent` of the inputs go to `version`, the others to `stable`, the version that is deployed."""

    app_id: str
    version: int
    percent: float
    stable: int
    definitions: dict[str, Definition] = field(default_factory=dict)  # by function id

    def kept(self) -> bytes:
        """What the database keeps of it."""
        return json.dumps({"version": self.version, "percent": self.percent, "stable": self.stable}).encode()


class Canaries:
    """All canaries, at most one for each app. Made by the composition root; asked by `stoker canary`, and by the scheduler where an input goes."""

    def __init__(self, *, database: Database, apps: Apps, functions: Functions, deployments: Deployments) -> None:
        self._database = database
        self._apps = apps
        self._functions = functions
        self._deployments = deployments
        self._by_app: dict[str, Canary] = {}
        self._jobs = Jobs("canaries")
        self.on_end: Callable[[list[str]], None] = lambda function_ids: None
        """Called with the ids of twins that get no more inputs."""

    def load(self) -> None:
        """Takes up the canaries of the last server, when its apps are known again."""
        settings = tables.settings.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(settings.key, settings.value).where(settings.key.startswith(_KEY))
            ).all()
        for key, value in rows:
            kept = json.loads(value)
            app_id = key.removeprefix(_KEY)
            try:
                canary = self._make(app_id, kept["version"], kept["percent"])
            except (NotFound, FailedPrecondition, InvalidArgument):
                continue
            if canary.stable == kept["stable"]:  # else a deployment has ended it
                self._by_app[app_id] = canary

    def get(self, app_id: str) -> Canary | None:
        return self._by_app.get(app_id)

    async def start(self, app_id: str, version: int, percent: float) -> Canary:
        """Replaces the app's canary, if it has one. Raises NotFound, FailedPrecondition or InvalidArgument."""
        canary = self._make(app_id, version, percent)

        def begin(_: None) -> None:
            previous = self._by_app.get(app_id)
            if previous is not None and previous.version != version:
                self._end(app_id)
            for twin in self._functions.of_app(app_id):
                if twin.twin_of:
                    twin.scaling_override = None  # of a canary that was called off and is back
            self._by_app[app_id] = canary

        await self._database.write(Change(lambda connection: _replace(connection, canary), begin))
        return canary

    async def stop(self, app_id: str) -> Canary:
        """All inputs go to the deployed version again; what the twins run is finished. Raises NotFound."""
        canary = self._of(app_id)
        await self._erase(canary)
        return canary

    async def promote(self, app_id: str) -> tuple[Canary, App]:
        """Deploys the canary's version for all inputs, with which the canary is over. Raises NotFound or FailedPrecondition."""
        canary = self._of(app_id)
        target = next(d for d in self._deployments.history(app_id) if d.version == canary.version)
        if target.kind == STAGED:
            app = await self._deployments.promote(app_id, canary.version)
        else:
            app = await self._deployments.roll_back(app_id, canary.version)
        return canary, app

    def forget(self, app_id: str) -> None:
        """Event: an app is over, or was deployed: a canary goes with the version beside which it was started."""
        canary = self._by_app.get(app_id)
        if canary is not None:
            self._end(app_id)
            self._jobs.insist(f"forget the canary of {app_id}", partial(self._erase, canary))

    async def close(self) -> None:
        await self._jobs.close(patience=0.0)

    def route(self, function: Function, input_id: str) -> str:
        """The id of the function that is to run an input: the one it was meant for, or its twin."""
        canary = self._by_app.get(function.app_id)
        if canary is None or zlib.crc32(input_id.encode()) % 10_000 >= canary.percent * 100:
            return function.id
        definition = canary.definitions.get(function.base_id or function.id)
        return function.id if definition is None else self._functions.twin(function, definition).id

    def _make(self, app_id: str, version: int, percent: float) -> Canary:
        if not 0 < percent <= 100:
            raise InvalidArgument("--percent must be more than 0 and at most 100.")
        app = self._apps.get(app_id)
        current = self._deployments.current(app_id) if app.state == DEPLOYED else None
        if current is None:
            raise FailedPrecondition(f"The app {app.name or app.id} is not deployed.")
        known = {d.version: d for d in self._deployments.history(app_id)}
        target = known.get(version)
        if target is None:
            raise unknown_version(app, version, known)
        if version == current.version:
            raise FailedPrecondition(f"v{version} is what is deployed; a canary is another version beside it.")
        definitions = {
            function_id: self._functions.stored(function_id, target.definition_ids[function_id])
            for function_id in set(target.function_ids.values())
            if function_id in target.definition_ids and function_id in set(app.function_ids.values())
        }
        return Canary(app_id, version, percent, current.version, definitions)

    def _of(self, app_id: str) -> Canary:
        canary = self._by_app.get(app_id)
        if canary is None:
            raise NotFound("The app has no canary. `stoker canary APP VERSION --percent N` starts one.")
        return canary

    def _end(self, app_id: str) -> None:
        """The app's twins get no more inputs."""
        if self._by_app.pop(app_id, None) is not None:
            self.on_end([f.id for f in self._functions.of_app(app_id) if f.twin_of])

    async def _erase(self, canary: Canary) -> None:
        def then(_: object) -> None:
            if self._by_app.get(canary.app_id) is canary:
                self._end(canary.app_id)

        await self._database.write(Change(lambda connection: connection.execute(_deletion_of(canary)), then))


def _deletion_of(canary: Canary) -> sa.Delete:
    """Deletes the row of this canary, and of no other that has taken its place."""
    settings = tables.settings
    return sa.delete(settings).where(settings.c.key == _KEY + canary.app_id, settings.c.value == canary.kept())


def _replace(connection: sa.Connection, canary: Canary) -> None:
    key = _KEY + canary.app_id
    connection.execute(sa.delete(tables.settings).where(tables.settings.c.key == key))
    connection.execute(sa.insert(tables.settings), [{"key": key, "value": canary.kept()}])
