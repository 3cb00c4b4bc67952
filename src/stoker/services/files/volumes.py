"""Volumes: named directories that containers mount and clients read and write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from stoker.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from stoker.ids import is_id, is_name, new_id
from stoker.services.environments.environments import Environments
from stoker.services.environments.named import EPHEMERAL_LOST_AFTER, SignsOfLife, named_rows
from stoker.services.files.volume_sums import VolumeSums
from stoker.services.telemetry.damages import Damages
from stoker.store import tables
from stoker.store.assembly import AssemblyStore
from stoker.store.database import Change, Database
from stoker.store.duties import Duty
from stoker.store.filetree import FileTree, parts_of
from stoker.store.incoming import sweep_incoming

_UPLOAD_ABANDONED_AFTER = 2 * 86_400.0


@dataclass(frozen=True)
class Volume:
    """`name` None for anonymous ones; `heartbeat_at` is set for those that live as long as their client. Seconds since the epoch."""

    id: str
    environment_id: str
    name: str | None
    version: int
    created_at: float
    heartbeat_at: float | None


class Volumes:
    """All volumes. Each is a real directory, so a container that mounts it sees every change at once; version 1 and 2 differ only in
    the RPCs that clients use."""

    def __init__(
        self,
        *,
        database: Database,
        environments: Environments,
        directory: Path,
        damages: Damages | None = None,
        sync: bool = False,
    ) -> None:
        self.sums = VolumeSums(database, damages if damages is not None else Damages(database))
        """Of the files that clients uploaded."""
        self.sync = sync
        """Whether uploaded files survive a power cut."""
        self._database = database
        self._environments = environments
        self._directory = directory
        self._staging = directory / ".staging"
        self._trash = self._staging / "trash"
        self._trash.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in (self._staging, *self._staging.glob("vo-*")):
            sweep_incoming(place)
        self._assemblies: dict[str, AssemblyStore] = {}
        self._known: dict[str, Volume] = {}  # each file of a transfer asks; nobody else writes the rows
        self._removal = Duty(database, "remove the files of", self._remove_files)
        self._signs = SignsOfLife()
        environments.on_delete.append(self._delete_all)

    def get(self, volume_id: str) -> Volume:
        """Raises NotFound."""
        known = self._known.get(volume_id)
        if known is not None:
            return known
        row = None
        if is_id(volume_id, "vo"):
            with self._database.read() as connection:
                row = connection.execute(sa.select(tables.volumes).where(tables.volumes.c.id == volume_id)).first()
        if row is None:
            raise NotFound(f"Volume {volume_id!r} not found on this server; it may have been deleted.")
        return self._known.setdefault(volume_id, Volume(**row._asdict()))

    def find(self, environment_id: str, name: str) -> Volume:
        """The volume of that name. Raises NotFound."""
        with self._database.read() as connection:
            found = _find(connection, environment_id, name)
        if found is None:
            raise NotFound(
                f"Volume {name!r} not found in the environment {self._environments.get(environment_id).name!r}. "
                f"`modal volume list` shows those there are; `modal volume create {name}` or create_if_missing=True makes it."
            )
        return found

    async def create(self, environment_id: str, name: str, version: int, *, if_exists: str) -> Volume:
        """A named volume. if_exists: "fail" (AlreadyExists) or "keep", which gives the old one whatever its version. Raises InvalidArgument."""
        _check_name(name)
        if if_exists not in ("fail", "keep"):
            raise InvalidArgument("A volume is not replaced by creating it anew; delete it first.")
        volume = Volume(new_id("vo"), environment_id, name, version, time.time(), None)

        def work(connection: sa.Connection) -> Volume:
            found = _find(connection, environment_id, name)
            if found is not None and if_exists == "fail":
                raise AlreadyExists(f"The volume {name!r} exists already. Choose another name, or delete it first.")
            if found is None:
                connection.execute(sa.insert(tables.volumes), [asdict(volume)])
            return found or volume

        created = await self._database.write(work)
        self._files(created.id)
        return created

    async def create_ephemeral(self, environment_id: str, version: int) -> Volume:
        """A volume without a name that lives while heartbeats come."""
        now = time.time()
        volume = Volume(new_id("vo"), environment_id, None, version, now, now)
        self._signs.heard(volume.id)
        await self._database.insert(tables.volumes, [asdict(volume)])
        self._files(volume.id)
        return volume

    async def heartbeat(self, volume_id: str) -> None:
        """Raises NotFound."""
        if self.get(volume_id).heartbeat_at is not None:
            self._signs.heard(volume_id)
            statement = sa.update(tables.volumes).where(tables.volumes.c.id == volume_id)
            await self._database.write(
                lambda connection: connection.execute(statement.values(heartbeat_at=time.time()))
            )

    async def rename(self, volume_id: str, name: str) -> None:
        """Raises NotFound, InvalidArgument, AlreadyExists, or FailedPrecondition for one without a name."""
        _check_name(name)
        volume = self.get(volume_id)
        if volume.name is None:
            raise FailedPrecondition("A volume without a name cannot be renamed.")

        def work(connection: sa.Connection) -> None:
            found = _find(connection, volume.environment_id, name)
            if found is not None and found.id != volume_id:
                raise AlreadyExists(f"The volume {name!r} exists already. Choose another name, or delete it first.")
            connection.execute(sa.update(tables.volumes).where(tables.volumes.c.id == volume_id).values(name=name))

        await self._database.write(Change(work, lambda _: self._forget(volume_id)))

    async def delete(self, volume_id: str) -> None:
        """Deletes a volume; containers that have it mounted find it empty. Its files are removed beside. Raises NotFound."""
        self.get(volume_id)

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(tables.volumes).where(tables.volumes.c.id == volume_id))
            connection.execute(sa.delete(tables.volume_sums).where(tables.volume_sums.c.volume_id == volume_id))
            self._removal.note(connection, volume_id)

        def then(_: None) -> None:
            self._forget(volume_id)
            self._signs.forget(volume_id)
            self._removal.begin(volume_id)

        await self._database.write(Change(work, then))

    def named(self, environment_id: str, limit: int = 0, created_before: float = 0.0) -> list[Volume]:
        """Named volumes, newest first. limit and created_before (seconds since the epoch): 0 for none."""
        rows = named_rows(self._database, tables.volumes, environment_id, limit, created_before)
        return [Volume(**row._asdict()) for row in rows]

    def directory(self, volume_id: str) -> Path:
        """Where the files are, to be mounted read-write. Raises NotFound."""
        path = self._files(volume_id)
        self.sums.may_be_written(volume_id)
        return path

    def sub_directory(self, volume_id: str, sub_path: str) -> Path:
        """A directory inside a volume, made when it is missing; the path holds no symbolic link at this moment.

        Raises NotFound, InvalidArgument, or FailedPrecondition when something else is in its place or a link leads outside."""
        self.sums.may_be_written(volume_id)
        return self.tree(volume_id).make_directory(parts_of(sub_path))

    def tree(self, volume_id: str) -> FileTree:
        """Safe access to the files. Raises NotFound."""
        volume = self.get(volume_id)
        return FileTree(self._files(volume_id), f"the volume {volume.name!r}" if volume.name else "this volume")

    def assembly(self, volume_id: str) -> AssemblyStore:
        """The uploads to a volume. Raises NotFound."""
        assembly = self._assemblies.get(volume_id)
        if assembly is None:
            self.get(volume_id)
            assembly = self._assemblies[volume_id] = self._assembly(volume_id)
        return assembly

    def scratch(self) -> Path:
        """A directory on the volumes' file system for files that are being made."""
        return self._staging

    def trash_path(self) -> Path:
        """A fresh name to move something to that is then given to `empty`."""
        return self._trash / secrets.token_hex(12)

    async def empty(self, doomed: Path) -> None:
        """Removes what was moved to a trash path."""
        await asyncio.to_thread(_remove, doomed)

    async def sweep(self) -> None:
        """Removes ephemeral volumes whose client is gone, uploads that were abandoned, and old rubbish. To be called now and then."""
        volumes = tables.volumes
        with self._database.read() as connection:
            ephemeral = connection.execute(sa.select(volumes.c.id).where(volumes.c.heartbeat_at.is_not(None))).scalars()
            lost = [volume_id for volume_id in ephemeral if self._signs.silence(volume_id) > EPHEMERAL_LOST_AFTER]
        await self._delete_each(lost)
        await self._removal.catch_up()
        for entry in list(self._staging.iterdir()):
            if is_id(entry.name, "vo"):
                await asyncio.to_thread(self._assembly(entry.name).sweep, _UPLOAD_ABANDONED_AFTER)
        for entry in list(self._trash.iterdir()):
            await self.empty(entry)

    async def close(self) -> None:
        await self._removal.close()
        await self.sums.close()

    async def _delete_all(self, environment_id: str) -> None:
        with self._database.read() as connection:
            query = sa.select(tables.volumes.c.id).where(tables.volumes.c.environment_id == environment_id)
            volume_ids = connection.execute(query).scalars().all()
        await self._delete_each(volume_ids)

    async def _delete_each(self, volume_ids: Sequence[str]) -> None:
        for volume_id in volume_ids:
            with contextlib.suppress(NotFound):  # somebody else was faster
                await self.delete(volume_id)

    def _files(self, volume_id: str) -> Path:
        self.get(volume_id)
        path = self._directory / volume_id
        path.mkdir(mode=0o755, exist_ok=True)
        return path

    async def _remove_files(self, volume_id: str) -> None:
        """The volume is deleted: so are its files, and what is being uploaded to it."""
        assembly = self._assemblies.pop(volume_id, None) or self._assembly(volume_id)
        doomed = self._throw_away(volume_id)
        self.sums.removed_volume(volume_id)
        await asyncio.to_thread(assembly.clear)
        await self.empty(doomed)

    def _forget(self, volume_id: str) -> None:
        """Its row has changed."""
        self._known.pop(volume_id, None)

    def _throw_away(self, volume_id: str) -> Path:
        """Moves the files of a volume to the trash, if there are any; where they are then."""
        doomed = self.trash_path()
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._directory / volume_id, doomed)
        return doomed

    def _assembly(self, volume_id: str) -> AssemblyStore:
        tree = FileTree(self._directory / volume_id, "this volume")
        return AssemblyStore(self._staging / volume_id, tree, sync=self.sync)


def _find(connection: sa.Connection, environment_id: str, name: str) -> Volume | None:
    volumes = tables.volumes
    query = sa.select(volumes).where(volumes.c.environment_id == environment_id, volumes.c.name == name)
    row = connection.execute(query).first()
    return None if row is None else Volume(**row._asdict())


def _check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidArgument(f"{name!r} cannot name a volume: use 1 to 64 letters, digits, '-', '_' and '.'.")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
