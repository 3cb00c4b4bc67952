"""Apps: created, published, kept alive by their client, stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa
import structlog

from stoker.aio.jobs import Jobs
from stoker.errors import FailedPrecondition, InvalidArgument, NotFound
from stoker.ids import is_name, new_id
from stoker.services.environments.environments import Environments
from stoker.services.functions.functions import Functions, make_current, store_definitions
from stoker.services.functions.spec import Definition
from stoker.services.telemetry.logs import INFO, Logs
from stoker.store import tables
from stoker.store.database import Change, Database

INITIALIZING, EPHEMERAL, DETACHED, DEPLOYED = "initializing", "ephemeral", "detached", "deployed"
DETACHED_DISCONNECTED, STOPPING, STOPPED = "detached_disconnected", "stopping", "stopped"
_PATIENCE = 5.0  # seconds for which the end of the server waits for the ends of apps
_REPEATED_WITHIN = 20  # versions
REQUEST = "request"
"""In the details of a version: what it was asked for by."""
_WITH_CLIENT = (EPHEMERAL, INITIALIZING, DETACHED)  # states in which an app's client must give signs of life
_log = structlog.get_logger(__name__)


@dataclass
class App:
    """One app, as the database keeps it. `state` is one of those above; times in seconds since the epoch. `function_ids`, `class_ids`: of the
    published layout, by tag. `heartbeat`: when it fires, the client was silent for too long."""

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
    stopped_by: str = ""  # who asked for its end; "" when it lives, or ended by itself or with its client
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
    definitions: Mapping[str, Definition] = field(default_factory=dict)
    """New definitions by function, which become current; without any those that were staged do."""
    request: str = ""
    """Names the request that asks for it: a repeat of a request that was heard makes no second version."""


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
        """Ends the app's calls and containers; returns when the last container is gone. The flag asks to let running inputs finish.
        When it fails it is called again."""
        self.is_busy: Callable[[str], bool] = lambda app_id: True
        """Whether an app has unfinished calls."""
        self._stopping = Jobs("apps")
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
                self._begin_to_end(app, drain=False)
            elif app.state == DETACHED_DISCONNECTED:
                # Not before its unfinished calls are known again.
                asyncio.get_running_loop().call_soon(self.end_if_idle, app)

    async def create(
        self, environment_id: str, description: str, state: str, name: str = "", tags: dict[str, str] | None = None
    ) -> App:
        app = App(new_id("ap"), environment_id, name, description[:256], state, time.time(), tags or {})
        work = partial(sa.Connection.execute, statement=sa.insert(tables.apps), parameters=[_row(app)])
        await self._database.write(Change(work, lambda _: self._created(app)))
        return app

    async def deployed(self, environment_id: str, name: str) -> App:
        """The deployed app of that name, made without functions when there is none."""
        new = App(new_id("ap"), environment_id, name, name[:256], DEPLOYED, time.time())

        def work(connection: sa.Connection) -> str:
            found = _deployed_as(connection, environment_id, name)
            if not found:
                connection.execute(sa.insert(tables.apps), [_row(new)])
            return found[0] if found else new.id

        def then(app_id: str) -> None:
            if app_id == new.id:
                self._created(new)

        return self.by_name(environment_id, name) or self.get(await self._database.write(Change(work, then)))

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
            raise _stopped(app)
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
        self._stop_heartbeat(app)
        if app.state in _WITH_CLIENT:
            loop = asyncio.get_running_loop()
            app.heartbeat = loop.call_later(self._client_lost_seconds, self._lose_client, app)

    async def publish(self, app_id: str, publication: Publication) -> App:
        """Makes what was staged real: functions get their new definitions, the app its name, state and layout, all or nothing."""
        app = self.alive(app_id)
        if publication.name and not is_name(publication.name):
            raise InvalidArgument(
                f"{publication.name!r} cannot name an app: use 1 to 64 letters, digits, '-', '_' and '.'."
            )
        function_ids = {self._functions.get(function_id).id for function_id in publication.function_ids.values()}
        definitions = publication.definitions or self._functions.staged(function_ids)
        values = _published_values(app, publication)

        def work(connection: sa.Connection) -> list[str] | None:
            if _was_heard(connection, app.id, publication.request):
                return None
            if publication.definitions:
                store_definitions(connection, definitions)
            make_current(connection, definitions)
            return _record_publication(connection, app, publication, values)

        lives: list[bool] = []

        def then(replaced: list[str] | None) -> None:
            if replaced is not None:
                lives.append(self._published(app, values, definitions, replaced))

        await self._database.write(Change(work, then))
        if not all(lives):
            raise _stopped(app)
        return app

    async def stage(self, app_id: str, publication: Publication) -> App:
        """Keeps a version beside the one that runs, for `Deployments.promote`. Raises FailedPrecondition for an app that is not deployed."""
        app = self.alive(app_id)
        if app.state != DEPLOYED:
            raise FailedPrecondition(
                "Only an app that is deployed can have a staged version. Deploy it once without --staged."
            )

        def work(connection: sa.Connection) -> None:
            if not _was_heard(connection, app.id, publication.request):
                _record_version(connection, app.id, time.time(), publication)

        def then(_: None) -> None:
            self._functions.unstage(set(publication.function_ids.values()))

        await self._database.write(Change(work, then))
        return app

    async def set_tags(self, app_id: str, tags: dict[str, str]) -> None:
        """Replaces the tags of an app. Raises NotFound."""
        app = self.get(app_id)
        await self._set(app, {"tags": tags})

    async def disconnect(self, app_id: str, reason: str) -> None:
        """The client of an app says goodbye. An ephemeral app ends; a detached one lives until its calls are done."""
        app = self.get(app_id)
        if app.state == DETACHED:
            await self._set(app, {"state": DETACHED_DISCONNECTED})
            self._stop_heartbeat(app)
            self.end_if_idle(app)
        elif app.state in (EPHEMERAL, INITIALIZING):
            _log.info("app disconnected", app=app.id, reason=reason)
            await self.stop(app_id)

    async def stop(self, app_id: str, *, drain: bool = False, by: str = "") -> None:
        """Begins to stop an app; returns when that is stored. Its log ends when its last container has. by: who asks for it.

        When it cannot be stored the caller sees why, and the app stops all the same: nobody could tell its containers to, else."""
        app = self.get(app_id)
        if app.state == STOPPED:
            return
        if not app.is_over:
            app.stopped_by = by
            self._begin_to_end(app, drain)
        await self._note_stopping(app)

    def stop_soon(self, app: App) -> None:
        """Like `stop`, for callers that cannot wait."""
        self._stopping.insist(f"stop {app.id}", partial(self.stop, app.id))

    def end_if_idle(self, app: App) -> None:
        """A detached app without a client ends with its last call, or now when it has none."""
        if app.state == DETACHED_DISCONNECTED and not self.is_busy(app.id):
            self.stop_soon(app)

    async def close(self) -> None:
        for app in self._apps.values():
            self._stop_heartbeat(app)
        await self._stopping.close(patience=_PATIENCE)

    async def _stop_all(self, environment_id: str) -> None:
        for app in [a for a in self._apps.values() if a.environment_id == environment_id]:
            await self.stop(app.id)

    def _created(self, app: App) -> None:
        self._apps[app.id] = app
        if app.state in _WITH_CLIENT:
            self.heartbeat(app.id)

    def _published(
        self, app: App, values: Mapping[str, object], definitions: Mapping[str, Definition], replaced: list[str]
    ) -> bool:
        """Event: a publication is committed. False when the app was stopped meanwhile."""
        changed = [function.id for function in self._functions.made_current(definitions)]
        for app_id in replaced:
            other = self._apps.get(app_id)
            if other is not None and not other.is_over:
                self._begin_to_end(other, drain=False)
        if app.is_over:
            return False
        for name, value in values.items():
            setattr(app, name, value)
        if app.state == DEPLOYED:
            self._stop_heartbeat(app)
        try:
            self.on_publish(app, changed)
        except Exception:
            _log.exception("a deployment was not heard everywhere", app=app.id)
            self._stopping.insist(f"announce {app.id}", partial(self._announce, app, changed))
        return True

    async def _announce(self, app: App, changed: list[str]) -> None:
        if not app.is_over:
            self.on_publish(app, changed)

    def _lose_client(self, app: App) -> None:
        if app.state not in _WITH_CLIENT:
            return
        silence = f"no heartbeat for {self._client_lost_seconds:g} s"
        self._logs.write(app.id, INFO, f"The client of this app is gone ({silence}): the app ends.\n")
        self._stopping.insist(f"disconnect {app.id}", partial(self.disconnect, app.id, "heartbeat lost"))

    def _stop_heartbeat(self, app: App) -> None:
        if app.heartbeat is not None:
            app.heartbeat.cancel()
            app.heartbeat = None

    def _begin_to_end(self, app: App, drain: bool) -> None:
        """From here on nothing brings the app back, whatever becomes of the database."""
        self._stop_heartbeat(app)
        app.state = STOPPING
        self._stopping.start(f"end {app.id}", self._end(app, drain))

    async def _end(self, app: App, drain: bool) -> None:
        if self.on_stop is not None:
            await self._stopping.insist(f"end the containers of {app.id}", partial(self.on_stop, app, drain))
        end = {"state": STOPPED, "stopped_at": time.time(), "stopped_by": app.stopped_by}
        await self._stopping.insist(f"note the end of {app.id}", partial(self._set, app, end))
        self._apps.pop(app.id, None)
        self._functions.forget_app(app.id)
        self._logs.finish(app.id)

    async def _note_stopping(self, app: App) -> None:
        statement = sa.update(tables.apps).where(tables.apps.c.id == app.id, tables.apps.c.state != STOPPED)
        note = partial(sa.Connection.execute, statement=statement.values(state=STOPPING, stopped_by=app.stopped_by))
        await self._stopping.see_to(f"note that {app.id} stops", lambda: self._database.write(note))

    async def _set(self, app: App, values: Mapping[str, object]) -> None:
        def then(_: object) -> None:
            for name, value in values.items():
                setattr(app, name, value)

        statement = sa.update(tables.apps).where(tables.apps.c.id == app.id).values(**values)
        await self._database.write(Change(lambda connection: connection.execute(statement), then))


def _published_values(app: App, publication: Publication) -> dict[str, object]:
    """What a publication changes of its app: names of columns, and of attributes."""
    values: dict[str, object] = {
        "function_ids": publication.function_ids,
        "class_ids": publication.class_ids,
        "deployed_at": time.time(),
        "description": app.description or publication.name or app.name,
    }
    chosen = {"state": publication.state, "name": publication.name, "tags": publication.tags}
    return values | {name: value for name, value in chosen.items() if value}


def _record_publication(
    connection: sa.Connection, app: App, publication: Publication, values: Mapping[str, object]
) -> list[str]:
    """Returns the apps that this one replaces, which stop. Of two deployments at the same time one replaces the other."""
    apps = tables.apps
    alive = sa.and_(apps.c.id == app.id, apps.c.state.not_in((STOPPING, STOPPED)))
    if not connection.execute(sa.update(apps).where(alive).values(**values)).rowcount:
        raise _stopped(app)
    row = connection.execute(sa.select(apps.c.state, apps.c.deployed_at).where(apps.c.id == app.id)).one()
    if row.state == DEPLOYED:
        _record_version(connection, app.id, row.deployed_at, publication)
    named = _deployed_as(connection, app.environment_id, publication.name) if publication.name else []
    replaced = [app_id for app_id in named if app_id != app.id]
    connection.execute(sa.update(apps).where(apps.c.id.in_(replaced)).values(state=STOPPING))
    return replaced


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
        "details": publication.details | ({REQUEST: publication.request} if publication.request else {}),
    }
    connection.execute(sa.insert(deployments), [row])


def _was_heard(connection: sa.Connection, app_id: str, request: str) -> bool:
    """Whether a request has made a version: its answer was lost, and it comes again."""
    deployments = tables.deployments
    recent = sa.select(deployments.c.details).where(deployments.c.app_id == app_id)
    recent = recent.order_by(deployments.c.version.desc()).limit(_REPEATED_WITHIN)
    return bool(request) and any(d.get(REQUEST) == request for d in connection.execute(recent).scalars())


def _deployed_as(connection: sa.Connection, environment_id: str, name: str) -> list[str]:
    """The deployed apps of that name: none or one."""
    apps = tables.apps
    named = sa.and_(apps.c.environment_id == environment_id, apps.c.name == name, apps.c.state == DEPLOYED)
    return list(connection.execute(sa.select(apps.c.id).where(named)).scalars())


def _stopped(app: App) -> FailedPrecondition:
    return FailedPrecondition(f"The app {app.description or app.name or app.id} is stopped.")


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
        "stopped_by": app.stopped_by,
    }


def _app(row: sa.Row[tuple[object, ...]]) -> App:
    return App(**row._asdict())
