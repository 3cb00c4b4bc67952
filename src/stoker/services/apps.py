"""Apps: created, published, kept alive by their client, stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import sqlalchemy as sa
import structlog

from stoker.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from stoker.ids import is_name, new_id
from stoker.services.environments import Environments
from stoker.services.functions import Functions
from stoker.services.logs import INFO, Logs
from stoker.store import tables
from stoker.store.database import Database

INITIALIZING, EPHEMERAL, DETACHED, DEPLOYED = "initializing", "ephemeral", "detached", "deployed"
DETACHED_DISCONNECTED, STOPPING, STOPPED = "detached_disconnected", "stopping", "stopped"
_WITH_CLIENT = (EPHEMERAL, INITIALIZING, DETACHED)  # states in which an app's client must give signs of life
_log = structlog.get_logger(__name__)


@dataclass
class App:
    id: str
    environment_id: str
    name: str
    description: str
    state: str
    created_at: float
    tags: dict[str, str] = field(default_factory=dict)
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)
    deployed_at: float | None = None
    stopped_at: float | None = None
    heartbeat: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        return self.state in (STOPPING, STOPPED)


@dataclass(frozen=True)
class Publication:
    """What `AppPublish` says."""

    state: str  # "" keeps the state
    name: str
    function_ids: dict[str, str]
    class_ids: dict[str, str]
    definition_ids: dict[str, str]
    client_version: str = ""
    tag: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)


class Apps:
    """All apps that are not over, in memory; the others in the database."""

    def __init__(
        self,
        database: Database,
        functions: Functions,
        logs: Logs,
        *,
        environments: Environments | None = None,
        client_lost_seconds: float = 60.0,
    ) -> None:
        """environments: apps end with theirs."""
        self._client_lost_seconds = client_lost_seconds
        self._database = database
        self._functions = functions
        self._logs = logs
        self._apps: dict[str, App] = {}
        self.on_publish: Callable[[App, list[str]], None] = lambda app, function_ids: None
        """Called with the ids of the functions whose definition changed."""
        self.on_stop: Callable[[App, bool], Awaitable[None]] | None = None
        """Ends the app's calls and containers; returns when the last container is gone. The flag asks to let running inputs finish."""
        self.is_busy: Callable[[str], bool] = lambda app_id: True
        """Whether an app has unfinished calls."""
        self._stopping: set[asyncio.Task[None]] = set()
        self._environments = environments
        if environments is not None:
            environments.on_delete.insert(0, self._stop_all)  # before what they use goes

    def load(self) -> None:
        """Reads the apps that were alive when the server stopped. Clients of ephemeral ones get time to come back."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(tables.apps).where(tables.apps.c.state != STOPPED)).all()
        for row in rows:
            app = _app(row)
            self._apps[app.id] = app
            if self._environments is not None and not self._environments.has(app.environment_id):
                app.state = STOPPING  # it came to be while its environment was deleted
            if app.state in _WITH_CLIENT:
                self.heartbeat(app.id)
            elif app.state == STOPPING:
                self._end(app, drain=False)
            elif app.state == DETACHED_DISCONNECTED:
                # Not before its unfinished calls are known again.
                asyncio.get_running_loop().call_soon(self.end_if_idle, app)

    async def create(
        self, environment_id: str, description: str, state: str, name: str = "", tags: dict[str, str] | None = None
    ) -> App:
        app = App(new_id("ap"), environment_id, name, description[:256], state, time.time(), tags or {})
        self._apps[app.id] = app  # before it is stored: who asks for the name meanwhile must find it, not make another
        try:
            await self._database.insert(tables.apps, [_row(app)])
        except Exception:
            self._apps.pop(app.id, None)
            raise
        if state in _WITH_CLIENT:
            self.heartbeat(app.id)
        return app

    def get(self, app_id: str) -> App:
        """Raises NotFound."""
        app = self._apps.get(app_id)
        if app is None:
            with self._database.read() as connection:
                row = connection.execute(sa.select(tables.apps).where(tables.apps.c.id == app_id)).first()
            if row is None:
                raise NotFound(f"App {app_id!r} not found on this server.")
            app = _app(row)
        return app

    def alive(self, app_id: str) -> App:
        """The app, which must not be over. Raises NotFound or FailedPrecondition."""
        app = self.get(app_id)
        if app.is_over:
            raise FailedPrecondition(f"The app {app.description or app.name or app.id} is stopped.")
        return app

    def by_name(self, environment_id: str, name: str) -> App | None:
        """The deployed app of that name."""
        for app in self._apps.values():
            if app.environment_id == environment_id and app.name == name and app.state == DEPLOYED:
                return app
        return None

    def last_stopped(self, environment_id: str, name: str) -> App | None:
        """The app that had this name most recently, among those that are over."""
        apps = tables.apps
        query = (
            sa.select(apps)
            .where(apps.c.environment_id == environment_id, apps.c.name == name, apps.c.stopped_at.is_not(None))
            .order_by(apps.c.stopped_at.desc())
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return _app(row) if row is not None else None

    def all(self, environment_id: str = "") -> list[App]:
        """Running and deployed apps, and those stopped within a day; newest first."""
        recent = time.time() - 86_400
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(tables.apps).where(tables.apps.c.state == STOPPED, tables.apps.c.stopped_at > recent)
            ).all()
        apps = {row.id: _app(row) for row in rows} | self._apps
        chosen = [a for a in apps.values() if not environment_id or a.environment_id == environment_id]
        return sorted(chosen, key=lambda a: a.created_at, reverse=True)

    def heartbeat(self, app_id: str) -> None:
        """The client of an app is there. Without a sign for `client_lost_seconds` an app that lives with its client ends."""
        app = self.alive(app_id)
        if app.heartbeat is not None:
            app.heartbeat.cancel()
            app.heartbeat = None
        if app.state in _WITH_CLIENT:
            loop = asyncio.get_running_loop()
            app.heartbeat = loop.call_later(self._client_lost_seconds, self._lose_client, app)

    async def publish(self, app_id: str, publication: Publication) -> App:
        """Makes what was staged real: functions get their new definitions, the app its name, state and layout."""
        app = self.alive(app_id)
        if publication.name and not is_name(publication.name):
            raise InvalidArgument(
                f"{publication.name!r} cannot name an app: use 1 to 64 letters, digits, '-', '_' and '.'."
            )
        known = {f.id for f in map(self._functions.get, publication.function_ids.values())}
        changed = await self._functions.activate(sorted(known))
        self.alive(app_id)  # it may have been stopped meanwhile
        # Looked up where the name is taken, so that of two deployments at the same time one replaces the other.
        replaced = self.by_name(app.environment_id, publication.name) if publication.name else None
        app.state = publication.state or app.state
        app.name = publication.name or app.name
        app.description = app.description or app.name
        app.function_ids, app.class_ids = publication.function_ids, publication.class_ids
        app.tags = publication.tags or app.tags
        app.deployed_at = time.time()
        await self._database.write(lambda connection: _record_deployment(connection, app, publication))
        if app.state == DEPLOYED and app.heartbeat is not None:
            app.heartbeat.cancel()
            app.heartbeat = None
        if replaced is not None and replaced.id != app.id:
            await self.stop(replaced.id)
        if not app.is_over:  # stopped, or replaced in its turn, while it was stored
            self.on_publish(app, [f.id for f in changed])
        return app

    async def stage(self, app_id: str, publication: Publication) -> App:
        """Keeps a version beside the one that runs, for `Deployments.promote`. Raises FailedPrecondition for an app that is not deployed."""
        app = self.alive(app_id)
        if app.state != DEPLOYED:
            raise FailedPrecondition(
                "Only an app that is deployed can have a staged version. Deploy it once without --staged."
            )
        self._functions.unstage(sorted(set(publication.function_ids.values())))
        await self._database.write(lambda connection: _record_version(connection, app.id, time.time(), publication))
        return app

    async def set_tags(self, app_id: str, tags: dict[str, str]) -> None:
        """Replaces the tags of an app. Raises NotFound."""
        app = self.get(app_id)
        app.tags = tags
        statement = sa.update(tables.apps).where(tables.apps.c.id == app_id).values(tags=tags)
        await self._database.write(lambda connection: connection.execute(statement))

    async def disconnect(self, app_id: str, reason: str) -> None:
        """The client of an app says goodbye. An ephemeral app ends; a detached one lives until its calls are done."""
        app = self.get(app_id)
        if app.is_over:
            return
        if app.state == DETACHED:
            if app.heartbeat is not None:
                app.heartbeat.cancel()
            try:
                await self._set_state(app, DETACHED_DISCONNECTED)
            finally:
                self.end_if_idle(app)
        elif app.state in (EPHEMERAL, INITIALIZING):
            _log.info("app disconnected", app=app.id, reason=reason)
            await self.stop(app_id)

    async def stop(self, app_id: str, *, drain: bool = False) -> None:
        """Begins to stop an app; returns at once. Its log ends when its last container has."""
        app = self.get(app_id)
        if app.is_over:
            return
        if app.heartbeat is not None:
            app.heartbeat.cancel()
        try:
            await self._set_state(app, STOPPING)
        finally:  # also when the disk is full: nobody could stop the app once more
            self._end(app, drain)

    def stop_soon(self, app: App) -> None:
        """Like `stop`, for callers that cannot wait."""
        self._spawn(self.stop(app.id))

    def end_if_idle(self, app: App) -> None:
        """A detached app without a client ends with its last call, or now when it has none."""
        if app.state == DETACHED_DISCONNECTED and not self.is_busy(app.id):
            self.stop_soon(app)

    async def close(self) -> None:
        for app in self._apps.values():
            if app.heartbeat is not None:
                app.heartbeat.cancel()
        for task in list(self._stopping):
            await asyncio.wait([task], timeout=5)

    async def _stop_all(self, environment_id: str) -> None:
        for app in [a for a in self._apps.values() if a.environment_id == environment_id]:
            await self.stop(app.id)

    def _lose_client(self, app: App) -> None:
        if app.state not in _WITH_CLIENT:
            return
        silence = f"no heartbeat for {self._client_lost_seconds:g} s"
        self._logs.write(app.id, INFO, f"The client of this app is gone ({silence}): the app ends.\n")
        ending = self.disconnect(app.id, "heartbeat lost") if app.state == DETACHED else self.stop(app.id)
        self._spawn(ending)

    def _end(self, app: App, drain: bool) -> None:
        async def end() -> None:
            on_stop = self.on_stop
            if on_stop is not None:
                await _insist(lambda: on_stop(app, drain))
            app.stopped_at = time.time()
            await _insist(lambda: self._set_state(app, STOPPED))
            self._apps.pop(app.id, None)
            self._functions.forget_app(app.id)
            self._logs.finish(app.id)

        self._spawn(end())

    def _spawn(self, work: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _set_state(self, app: App, state: str) -> None:
        app.state = state
        values = {"state": state, "stopped_at": app.stopped_at}
        statement = sa.update(tables.apps).where(tables.apps.c.id == app.id).values(**values)
        await self._database.write(lambda connection: connection.execute(statement))


async def _insist(work: Callable[[], Awaitable[None]]) -> None:
    """Does what must be done, as soon as a full disk has room again."""
    while True:
        try:
            return await work()
        except ResourceExhausted as error:
            await asyncio.sleep(error.retry_after or 1.0)


def _record_deployment(connection: sa.Connection, app: App, publication: Publication) -> None:
    values = {k: v for k, v in _row(app).items() if k not in ("id", "created_at")}
    connection.execute(sa.update(tables.apps).where(tables.apps.c.id == app.id).values(**values))
    if app.state == DEPLOYED:
        _record_version(connection, app.id, app.deployed_at or time.time(), publication)


def _record_version(connection: sa.Connection, app_id: str, at: float, publication: Publication) -> None:
    deployments = tables.deployments
    newest = connection.execute(
        sa.select(sa.func.max(deployments.c.version)).where(deployments.c.app_id == app_id)
    ).scalar()
    row = {
        "app_id": app_id,
        "version": (newest or 0) + 1,
        "deployed_at": at,
        "client_version": publication.client_version,
        "tag": publication.tag,
        "function_ids": publication.function_ids,
        "class_ids": publication.class_ids,
        "definition_ids": publication.definition_ids,
        "details": publication.details,
    }
    connection.execute(sa.insert(deployments), [row])


def _row(app: App) -> dict[str, object]:
    return {
        "id": app.id,
        "environment_id": app.environment_id,
        "name": app.name,
        "description": app.description,
        "state": app.state,
        "tags": app.tags,
        "function_ids": app.function_ids,
        "class_ids": app.class_ids,
        "created_at": app.created_at,
        "deployed_at": app.deployed_at,
        "stopped_at": app.stopped_at,
    }


def _app(row: sa.Row[tuple[object, ...]]) -> App:
    return App(**row._asdict())
