"""Environments: the namespaces of everything that has a name."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from stoker.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from stoker.ids import is_id, new_id
from stoker.services.duties import Duty
from stoker.store import tables
from stoker.store.database import Change, Database

BUILDER_VERSIONS = ("2023.12", "2024.04", "2024.10", "2025.06", "2026.10", "PREVIEW")
_NAME = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9\-_]{0,63}$")
_FIRST_BUILDER_VERSION = "2025.06"
"""What a new workspace begins with, as old ones of Modal have it: the newest with which images may still have Python 3.10."""
_SETTINGS = (
    "default_environment",
    "image_builder_version",
    "first_builder_version",
)  # of the workspace, in the table of settings
_WEB_SUFFIX = re.compile(r"^[a-z0-9\-]{0,63}$")
_LONGEST_MADE_SUFFIX = 24


@dataclass(frozen=True)
class Environment:
    """`created_at` in seconds since the epoch; `image_builder_version` "" means the server's choice."""

    id: str
    name: str
    web_suffix: str
    image_builder_version: str
    created_at: float


class Environments:
    """All environments, in memory; the default one always exists."""

    def __init__(self, *, database: Database, default: str, image_builder_version: str = "") -> None:
        """default: the name that "" stands for. image_builder_version: for environments without one, "" for the server's choice."""
        self._database = database
        self._default = default
        self._image_builder_version = image_builder_version
        self._first_builder_version = ""
        self._by_id: dict[str, Environment] = {}
        self._doomed: set[str] = set()  # those being deleted: nothing new may be made in them
        self._deletion = Duty(database, "delete the environment", self._delete)
        self.on_delete: list[Callable[[str], Awaitable[None]]] = []
        """Each called with the id of an environment that is being deleted, to delete what is in it; again when one of them has failed."""
        self.on_web_suffix: Callable[[str], None] = lambda environment_id: None
        """Called with the id of an environment whose web suffix is another now."""

    async def load(self) -> None:
        """Reads all environments; makes the default one on the first start. What clients chose for the workspace goes before the
        server's settings."""
        chosen = sa.select(tables.settings).where(tables.settings.c.key.in_(_SETTINGS))
        with self._database.read() as connection:
            rows = connection.execute(sa.select(tables.environments)).all()
            settings = {row.key: row.value.decode() for row in connection.execute(chosen)}
        self._by_id = {row.id: Environment(**row._asdict()) for row in rows}
        self._doomed = set(self._deletion.due())
        if self._find(settings.get("default_environment", "")) is not None:
            self._default = settings["default_environment"]
        self._image_builder_version = settings.get("image_builder_version", self._image_builder_version)
        if not rows:
            await self._set("first_builder_version", _FIRST_BUILDER_VERSION, lambda _: None)
            settings["first_builder_version"] = _FIRST_BUILDER_VERSION
        self._first_builder_version = settings.get("first_builder_version", "")
        if self._find(self._default) is None:
            await self.create(self._default)

    def resolve(self, name: str) -> Environment:
        """The environment of that name or id; "" is the default one. Raises NotFound, also for one that is being deleted."""
        environment = self._by_id.get(name) if is_id(name, "en") else self._find(name or self._default)
        if environment is None or environment.id in self._doomed:
            raise NotFound(
                f"There is no environment {name!r} on this server. It has: {', '.join(self._names())}. "
                "`modal environment create` makes one."
            )
        return environment

    def get(self, environment_id: str) -> Environment:
        """Raises NotFound."""
        environment = self._by_id.get(environment_id)
        if environment is None:
            raise NotFound(f"There is no environment {environment_id!r} on this server.")
        return environment

    def has(self, environment_id: str) -> bool:
        """Whether there is such an environment, and it is not being deleted."""
        return environment_id in self._by_id and environment_id not in self._doomed

    def all(self) -> list[Environment]:
        """Oldest first."""
        return sorted(self._by_id.values(), key=lambda e: (e.created_at, e.name))

    def is_default(self, environment: Environment) -> bool:
        return environment.name == self._default

    def default(self) -> Environment:
        return self.resolve("")

    async def set_default(self, name: str) -> None:
        """Makes an environment the default one, also after restarts. Raises NotFound."""
        environment = self.resolve(name)

        def then(_: None) -> None:
            self._default = environment.name

        await self._set("default_environment", environment.name, then)

    async def set_image_builder_version(self, version: str) -> None:
        """Sets what environments without a version of their own build images with; "" leaves it to the client. Raises InvalidArgument."""
        _check_builder_version(version)

        def then(_: None) -> None:
            self._image_builder_version = version

        await self._set("image_builder_version", version, then)

    def image_builder_version(self, environment: Environment, client_version: str) -> str:
        """What a client builds images with: the environment's version, or the server's, or else the one with which this workspace began.
        Those from before there was such a choice have the newest that the client knows."""
        chosen = environment.image_builder_version or self._image_builder_version
        newest = newest_builder_version(client_version)
        return chosen or min(self._first_builder_version or newest, newest)

    async def create(self, name: str) -> Environment:
        """Raises InvalidArgument or AlreadyExists. Its web suffix is its name, and the first one has none."""
        _check_name(name)

        def work(connection: sa.Connection) -> Environment:
            _check_free(connection, name)
            environment = Environment(new_id("en"), name, _free_suffix(connection, name), "", time.time())
            connection.execute(sa.insert(tables.environments), [asdict(environment)])
            return environment

        return await self._database.write(Change(work, self._know))

    async def update(
        self,
        name: str,
        *,
        new_name: str | None = None,
        web_suffix: str | None = None,
        image_builder_version: str | None = None,
    ) -> Environment:
        """Changes what is not None. Raises NotFound, InvalidArgument, AlreadyExists or FailedPrecondition."""
        old = self.resolve(name)
        values: dict[str, Any] = {}
        if new_name is not None and new_name != old.name:
            _check_name(new_name)
            if self.is_default(old):
                raise FailedPrecondition(
                    f"{old.name!r} is the default environment; make another the default first (`modal workspace settings set`)."
                )
            values["name"] = new_name
        if web_suffix is not None:
            if not _WEB_SUFFIX.match(web_suffix):
                raise InvalidArgument(f"{web_suffix!r} cannot be a web suffix: use lower-case letters, digits and '-'.")
            values["web_suffix"] = web_suffix
        if image_builder_version is not None:
            _check_builder_version(image_builder_version)
            values["image_builder_version"] = image_builder_version

        def work(connection: sa.Connection) -> None:
            if "name" in values:
                _check_free(connection, values["name"])
            if "web_suffix" in values:
                _check_suffix(connection, values["web_suffix"], old)
            chosen = sa.update(tables.environments).where(tables.environments.c.id == old.id)
            connection.execute(chosen.values(**values))

        if values:
            change = Change(work, lambda _: self._know(replace(self._by_id.get(old.id, old), **values)))
            await self._database.write(change)
        return self._by_id.get(old.id, old)

    async def delete(self, name: str) -> None:
        """Deletes an environment and all that is in it. What cannot be deleted now is later, also by the next server.

        Raises NotFound, or FailedPrecondition for the default one."""
        environment = self.resolve(name)
        if self.is_default(environment):
            raise FailedPrecondition(
                f"{environment.name!r} is the default environment and cannot be deleted. "
                "Make another the default first (`modal workspace settings set`)."
            )

        def then(_: None) -> None:
            self._doomed.add(environment.id)
            self._deletion.begin(environment.id)

        note = partial(self._deletion.note, subject=environment.id)
        await self._database.write(Change(note, then))
        await self._deletion.see_to(environment.id)

    async def catch_up(self) -> None:
        """Goes on with deletions that were begun. To be called now and then, when all that is in environments is known."""
        await self._deletion.catch_up()

    async def close(self) -> None:
        await self._deletion.close()

    async def _delete(self, environment_id: str) -> None:
        for delete_contents in self.on_delete:
            await delete_contents(environment_id)
        statement = sa.delete(tables.environments).where(tables.environments.c.id == environment_id)

        def gone(_: object) -> None:
            self._by_id.pop(environment_id, None)
            self._doomed.discard(environment_id)

        await self._database.write(Change(lambda connection: connection.execute(statement), gone))

    async def _set(self, key: str, value: str, then: Callable[[None], None]) -> None:
        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(tables.settings).where(tables.settings.c.key == key))
            connection.execute(sa.insert(tables.settings), [{"key": key, "value": value.encode()}])

        await self._database.write(Change(work, then))

    def _know(self, environment: Environment) -> None:
        before = self._by_id.get(environment.id)
        self._by_id[environment.id] = environment
        if before is not None and before.web_suffix != environment.web_suffix:
            self.on_web_suffix(environment.id)

    def _names(self) -> list[str]:
        return [e.name for e in self.all() if e.id not in self._doomed]

    def _find(self, name: str) -> Environment | None:
        return next((e for e in self._by_id.values() if e.name == name), None)


def slug(text: str) -> str:
    """As a part of a label, and so of a host name: lower-case letters, digits, and "-" for all between them."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def newest_builder_version(client_version: str) -> str:
    """The newest image builder that a client of this version knows; an unreadable version counts as new."""
    match = re.match(r"^(\d+)\.(\d+)", client_version)
    return "2025.06" if match and (int(match[1]), int(match[2])) < (1, 6) else "2026.10"


def _check_builder_version(version: str) -> None:
    if version and version not in BUILDER_VERSIONS:
        raise InvalidArgument(f"{version!r} is not an image builder version. There are: {', '.join(BUILDER_VERSIONS)}.")


def _check_free(connection: sa.Connection, name: str) -> None:
    named = sa.select(tables.environments.c.id).where(tables.environments.c.name == name)
    if connection.execute(named).first() is not None:
        raise AlreadyExists(f"The environment {name!r} exists already.")


def _suffixes(connection: sa.Connection) -> dict[str, Any]:
    """All environments by their suffixes, as these are in labels, where only letters and digits count."""
    columns = tables.environments.c
    rows = connection.execute(sa.select(columns.id, columns.name, columns.web_suffix))
    return {slug(row.web_suffix): row for row in rows}


def _free_suffix(connection: sa.Connection, name: str) -> str:
    taken = _suffixes(connection)
    if not taken:
        return ""
    made = slug(name)[:_LONGEST_MADE_SUFFIX].strip("-")
    tries = (made if number == 1 else f"{made}-{number}" for number in itertools.count(1))
    return next(suffix for suffix in tries if slug(suffix) not in taken)


def _check_suffix(connection: sa.Connection, web_suffix: str, environment: Environment) -> None:
    other = _suffixes(connection).get(slug(web_suffix))
    if other is not None and other.id != environment.id and slug(web_suffix) != slug(environment.web_suffix):
        raise AlreadyExists(
            f"The environment {other.name!r} has the web suffix {web_suffix!r}, so their web apps could not be told apart. "
            "Choose another one."
        )


def _check_name(name: str) -> None:
    if not _NAME.match(name) or name.lower().startswith("en-"):
        raise InvalidArgument(
            f"{name!r} cannot name an environment: use 1 to 64 letters, digits, '-' and '_', a letter or digit first, "
            "and not 'en-' at the beginning."
        )
