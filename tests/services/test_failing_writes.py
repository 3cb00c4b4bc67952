"""A database that fails at each change in turn: what is in memory is what is on the disk, and what was begun is done in the end.

Each deed is tried on a database that refuses its first change, then on one that refuses its second one, and so on, until it succeeds without a
refusal: for a reason that passes, for a defect, and with a change that is stored although it is said to have failed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from modal_proto import api_pb2

from stoker.aio import jobs
from stoker.errors import NotFound, ResourceExhausted, Unavailable
from stoker.protocol.wire import ModalWire
from stoker.services.access.proxy_tokens import ProxyTokens
from stoker.services.access.tokens import Tokens
from stoker.services.apps.apps import DEPLOYED, DETACHED, INITIALIZING, STOPPED, App, Apps, Publication
from stoker.services.apps.canaries import Canaries
from stoker.services.apps.deployments import STAGED, Deployments
from stoker.services.environments.environments import Environments
from stoker.services.files.volumes import Volumes
from stoker.services.functions.functions import Functions
from stoker.services.state.dicts import Dicts
from stoker.services.state.queues import Queues
from stoker.services.telemetry.logs import Logs
from stoker.store import tables
from stoker.store.database import Database


class Fault(RuntimeError):
    """A defect."""


@dataclass
class Way:
    """How a change fails. stored: it is there all the same."""

    error: Callable[[], Exception]
    stored: bool = False


WAYS = {
    "away": Way(lambda: Unavailable("The database does not answer.")),
    "full": Way(lambda: ResourceExhausted("The disk is full.", 0.001)),
    "defect": Way(lambda: Fault("something is wrong")),
    "unanswered": Way(lambda: Unavailable("The database does not answer."), stored=True),
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", 0.01)


class House:
    """The services that keep a copy of the database in memory."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database = database
        self.environments = Environments(database=self.database, default="main")
        self.functions = Functions(self.database, ModalWire())
        self.apps = Apps(self.database, self.functions, Logs(self.database), environments=self.environments)
        self.deployments = Deployments(database=self.database, apps=self.apps, functions=self.functions)
        self.canaries = Canaries(
            database=self.database, apps=self.apps, functions=self.functions, deployments=self.deployments
        )
        self.tokens = Tokens(self.database)
        self.proxy_tokens = ProxyTokens(database=self.database, environments=self.environments)
        self.dicts = Dicts(database=self.database, environments=self.environments)
        self.queues = Queues(database=self.database, environments=self.environments)
        self.volumes = Volumes(database=self.database, environments=self.environments, directory=directory)
        self.heard: dict[str, str] = {}  # function -> the definition that the runners were told of
        self.apps.on_publish = self._hear
        self.ended: list[str] = []
        self.apps.on_stop = self._end

    async def open(self) -> None:
        await self.environments.load()
        self.main = self.environments.default().id
        self.apps.load()
        self.canaries.load()

    async def close(self) -> None:
        for part in (self.apps, self.canaries, self.tokens, self.queues, self.volumes, self.environments):
            await part.close()

    async def settle(self) -> None:
        """Waits for what goes on beside."""
        parts = (
            self.apps._stopping,
            self.canaries._jobs,
            self.tokens._jobs,
            self.queues._background,
            self.volumes._removal._jobs,
            self.environments._deletion._jobs,
        )
        while busy := [part for part in parts if part]:
            await asyncio.wait([task for part in busy for task in part])

    async def staged(self, app: App, names: str = "fg") -> Publication:
        """New definitions of an app's functions, and what publishes them."""
        ids, definitions = {}, {}
        for name in names:
            request = api_pb2.FunctionCreateRequest(app_id=app.id)
            request.function.function_name = name
            function = await self.functions.define(
                app.id, name, app.function_ids.get(name, ""), request.SerializeToString(), "1.6.4"
            )
            assert function.staged is not None
            ids[name], definitions[function.id] = function.id, function.staged.id
        return Publication(DEPLOYED, "shop", ids, {}, definitions, request=f"request {definitions}")

    async def deployed(self, versions: int = 1) -> App:
        app = await self.apps.create(self.main, "shop", INITIALIZING)
        for _ in range(versions):
            await self.apps.publish(app.id, await self.staged(app))
        return app

    def picture(self) -> dict[str, Any]:
        """What is in memory, without times and secrets."""
        apps = {a.id: a for a in self.apps.all() if a.state != STOPPED}
        function_ids = {i for a in apps.values() for i in a.function_ids.values()}
        currents = {i: self.functions.get(i).current for i in sorted(function_ids)}
        canaries = {app_id: self.canaries.get(app_id) for app_id in apps}
        volumes = self.volumes.named(self.main)
        return {
            "apps": {
                a.id: (a.state, a.name, a.tags, a.function_ids, a.class_ids, a.environment_id) for a in apps.values()
            },
            "definitions": {i: current.id if current else "" for i, current in currents.items()},
            "canaries": {app_id: (c.version, c.percent) for app_id, c in canaries.items() if c is not None},
            "environments": self.environments.all(),
            "default": self.environments.default().id,
            "tokens": [(t.id, t.name, t.enabled) for t in self.tokens.all()],
            "proxy tokens": [(t.id, t.name, t.scoped, sorted(t.environment_ids)) for t in self.proxy_tokens.all()],
            "dicts": [(d.id, d.name) for d in self.dicts.objects.named(self.main)],
            "queues": {q.id: self.queues.total(q.id) for q in self.queues.objects.named(self.main)},
            "volumes": [(v.id, self.volumes.get(v.id)) for v in volumes],
        }

    def _hear(self, app: App, changed: list[str]) -> None:
        self.canaries.forget(app.id)
        for function_id in changed:
            self.heard[function_id] = self.functions.get(function_id).active.id

    async def _end(self, app: App, drain: bool) -> None:
        self.ended.append(app.id)


@contextmanager
def failing(database: Database, at: int, way: Way) -> Iterator[list[int]]:
    """Change number `at` (from 0) fails; how many changes were tried."""
    write, count = database.write, [0]

    async def sometimes(work: Callable[[sa.Connection], Any]) -> Any:
        count[0] += 1
        if count[0] - 1 != at:
            return await write(work)
        if way.stored:
            await write(work)
        raise way.error()

    database.write = sometimes  # type: ignore[method-assign]
    try:
        yield count
    finally:
        database.write = write  # type: ignore[method-assign]


@dataclass
class Deed:
    """Something that is done to a house: `prepare` gives what `act` needs, and `check` looks at the result."""

    prepare: Callable[[House], Awaitable[Any]]
    act: Callable[[House, Any], Awaitable[Any]]
    check: Callable[[House, Any], None] = lambda house, given: None
    repeats: bool = True  # whether it succeeds when it is asked for once more after it was done


async def nothing(house: House) -> None: ...


async def a_deployment(house: House) -> Any:
    app = await house.deployed()
    return app, await house.staged(app)


def runs_the_new_version(house: House, given: Any) -> None:
    app, publication = given
    assert house.heard == publication.definition_ids, "the runners have heard of every new definition"
    assert house.apps.get(app.id).function_ids == publication.function_ids
    assert [d.version for d in house.deployments.history(app.id)] == [2, 1], "one deployment is one version"


async def another_app(house: House) -> Any:
    old = await house.deployed()
    new = await house.apps.create(house.main, "shop", INITIALIZING)
    return old, new, await house.staged(new)


def replaces(house: House, given: Any) -> None:
    old, new, _ = given
    assert house.apps.get(old.id).state == STOPPED and house.ended == [old.id]
    named = house.apps.by_name(house.main, "shop")
    assert named is not None and named.id == new.id


def rolled_back(house: House, app: App) -> None:
    history = house.deployments.history(app.id)
    assert [(d.version, d.from_version) for d in history] == [(4, 2), (3, 0), (2, 0), (1, 0)]
    assert house.heard == history[0].definition_ids


async def a_staged_version(house: House) -> Any:
    app = await house.deployed()
    publication = await house.staged(app)
    staged = Publication(**{**vars(publication), "details": {"kind": STAGED}})
    await house.apps.stage(app.id, staged)
    return app


def has_stopped(house: House, app: App) -> None:
    assert house.apps.get(app.id).state == STOPPED and house.ended == [app.id]


async def an_environment(house: House) -> Any:
    dev = await house.environments.create("dev")
    app = await house.apps.create(dev.id, "x", DEPLOYED, "x")
    volume = await house.volumes.create(dev.id, "v", 2, if_exists="fail")
    named = [(await things.objects.create(dev.id, "n", if_exists="fail"))[0] for things in (house.dicts, house.queues)]
    token = await house.proxy_tokens.create("t")
    await house.proxy_tokens.allow(token[0], dev.id)
    return dev, app, volume, named


def is_gone(house: House, given: Any) -> None:
    dev, app, volume, (a_dict, a_queue) = given
    assert not house.environments.has(dev.id) and house.apps.get(app.id).state == STOPPED
    for look in (
        lambda: house.volumes.get(volume.id),
        lambda: house.dicts.objects.get(a_dict.id),
        lambda: house.queues.objects.get(a_queue.id),
        lambda: house.environments.resolve("dev"),
    ):
        with pytest.raises(NotFound):
            look()


async def a_proxy_token(house: House) -> Any:
    for name in ("dev", "staging"):
        await house.environments.create(name)
    return (await house.proxy_tokens.create("t"))[0]


def is_good_for_the_others(house: House, token_id: str) -> None:
    token, dev = house.proxy_tokens.get(token_id), house.environments.resolve("dev")
    good = {e.id for e in house.environments.all() if token.is_good_for(e.id)}
    assert good == {e.id for e in house.environments.all()} - {dev.id}


async def two_tokens(house: House) -> Any:
    return [(await house.tokens.create(name))[0] for name in ("one", "two")]


def are(house: House, enabled: list[bool]) -> None:
    assert [t.enabled for t in house.tokens.all()] == enabled


async def a_canary(house: House) -> Any:
    app = await house.deployed(3)
    await house.canaries.start(app.id, 1, 10.0)
    return app


def has_canary(house: House, app: App, version: int) -> None:
    canary = house.canaries.get(app.id)
    assert canary is not None and canary.version == version


def has_none(house: House, app: App) -> None:
    assert house.canaries.get(app.id) is None
    with house.database.read() as connection:
        keys = connection.execute(sa.select(tables.settings.c.key)).scalars().all()
    assert not [key for key in keys if key.startswith(("canary/", "duty/"))]


async def a_dict(house: House) -> Any:
    return (await house.dicts.objects.create(house.main, "d", if_exists="fail"))[0]


async def a_queue(house: House) -> Any:
    queue, _ = await house.queues.objects.create(house.main, "q", if_exists="fail")
    await house.queues.put(queue.id, b"", [b"1", b"2"])
    return queue


def holds(house: House, queue: Any, items: int) -> None:
    assert house.queues.length(queue.id, b"") == items


async def a_volume(house: House) -> Any:
    volume = await house.volumes.create(house.main, "v", 2, if_exists="fail")
    (house.volumes.directory(volume.id) / "file").write_bytes(b"content")
    return volume


def is_removed(house: House, volume: Any) -> None:
    assert house.volumes.named(house.main) == [] and not (house.volumes._directory / volume.id).exists()


DEEDS = {
    "deploy": Deed(a_deployment, lambda h, g: h.apps.publish(g[0].id, g[1]), runs_the_new_version),
    "replace an app": Deed(another_app, lambda h, g: h.apps.publish(g[1].id, g[2]), replaces),
    "roll back": Deed(
        lambda h: h.deployed(3), lambda h, app: h.deployments.roll_back(app.id, -1, request="r"), rolled_back
    ),
    "promote": Deed(a_staged_version, lambda h, app: h.deployments.promote(app.id, 2, request="r")),
    "stop": Deed(lambda h: h.deployed(), lambda h, app: h.apps.stop(app.id), has_stopped),
    "set tags": Deed(lambda h: h.deployed(), lambda h, app: h.apps.set_tags(app.id, {"a": "b"})),
    "get or create an app": Deed(nothing, lambda h, _: h.apps.deployed(h.main, "new")),
    "leave a detached app": Deed(
        lambda h: h.apps.create(h.main, "x", DETACHED), lambda h, app: h.apps.disconnect(app.id, "bye")
    ),
    "define a function": Deed(lambda h: h.deployed(), lambda h, app: h.staged(app)),
    "delete an environment": Deed(an_environment, lambda h, _: h.environments.delete("dev"), is_gone, repeats=False),
    "rename an environment": Deed(
        lambda h: h.environments.create("dev"),
        lambda h, _: h.environments.update("dev", new_name="prod"),
        repeats=False,
    ),
    "choose the default": Deed(lambda h: h.environments.create("dev"), lambda h, _: h.environments.set_default("dev")),
    "make a token": Deed(nothing, lambda h, _: h.tokens.create("t")),
    "disable a token": Deed(two_tokens, lambda h, g: h.tokens.disable(g[:1]), lambda h, g: are(h, [False, True])),
    "delete a token": Deed(two_tokens, lambda h, g: h.tokens.delete(g[0]), lambda h, g: are(h, [True]), repeats=False),
    "limit a proxy token": Deed(
        a_proxy_token, lambda h, t: h.proxy_tokens.revoke(t, h.environments.resolve("dev").id), is_good_for_the_others
    ),
    "rename a proxy token": Deed(a_proxy_token, lambda h, t: h.proxy_tokens.rename(t, "other")),
    "start a canary": Deed(
        a_canary, lambda h, app: h.canaries.start(app.id, 2, 5.0), lambda h, app: has_canary(h, app, 2)
    ),
    "stop a canary": Deed(a_canary, lambda h, app: h.canaries.stop(app.id), has_none, repeats=False),
    "promote a canary": Deed(a_canary, lambda h, app: h.canaries.promote(app.id), has_none, repeats=False),
    "make a dict": Deed(nothing, lambda h, _: h.dicts.objects.create(h.main, "d", if_exists="keep")),
    "replace a dict": Deed(a_dict, lambda h, _: h.dicts.objects.create(h.main, "d", if_exists="replace")),
    "delete a dict": Deed(a_dict, lambda h, d: h.dicts.objects.delete(d.id), repeats=False),
    "put": Deed(
        a_queue, lambda h, q: h.queues.put(q.id, b"", [b"3"], key="k", repeated=True), lambda h, q: holds(h, q, 3)
    ),
    "get": Deed(
        a_queue, lambda h, q: h.queues.get(q.id, b"", 1, 0.0, key="k", repeated=True), lambda h, q: holds(h, q, 1)
    ),
    "rename a volume": Deed(a_volume, lambda h, v: h.volumes.rename(v.id, "w")),
    "delete a volume": Deed(a_volume, lambda h, v: h.volumes.delete(v.id), is_removed, repeats=False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("deed", DEEDS)
def test_memory_is_what_the_disk_says(database_url: str, tmp_path: Path, deed: str, way: str) -> None:
    """Whichever change fails: memory is what a server would read that starts now, and the client's repeat brings what it asked for."""
    if way == "defect" and not database_url.startswith("sqlite"):
        pytest.skip("a defect is the same on either")

    async def scenario() -> None:
        database = Database.open(database_url)
        for at in itertools.count():
            await _empty(database)
            if await _try(DEEDS[deed], WAYS[way], at, House(database, tmp_path)) <= at:
                break  # that change was not even reached
        await database.close()

    asyncio.run(asyncio.wait_for(scenario(), 120))


async def _try(deed: Deed, way: Way, at: int, house: House) -> int:
    """How many changes were tried."""
    await house.open()
    given = await deed.prepare(house)
    house.heard.clear()
    failed = False
    with failing(house.database, at, way) as tried:
        try:
            await deed.act(house, given)
        except (Unavailable, ResourceExhausted, Fault):
            failed = True
        await house.settle()
    await _compare(house)
    if failed:
        try:
            await deed.act(house, given)
        except NotFound:
            assert not deed.repeats, "the client's repeat fails"
        await house.settle()
    deed.check(house, given)
    await _compare(house)
    await house.close()
    return tried[0]


async def _compare(house: House) -> None:
    """With what a server would know that starts now."""
    fresh = House(house.database, house.volumes._directory)
    await fresh.open()
    assert house.picture() == fresh.picture()
    await fresh.settle()
    await fresh.close()


async def _empty(database: Database) -> None:
    def work(connection: sa.Connection) -> None:
        for table in tables.metadata.sorted_tables:
            connection.execute(sa.delete(table))

    await database.write(work)
