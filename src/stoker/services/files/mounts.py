"""Mounts: sets of local files that a client uploads once and containers see as a directory tree."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stoker.errors import AlreadyExists, InvalidArgument, NotFound
from stoker.ids import content_id, is_name
from stoker.nodes import pythons
from stoker.services.files.blobs import Blobs
from stoker.services.files.mount_trees import MountTrees
from stoker.services.telemetry.damages import FILE, Damages
from stoker.store import tables
from stoker.store.contents import Contents
from stoker.store.database import Database
from stoker.store.filetree import parts_of

_MOST_ANSWERS = 10_000  # about files of mounts that are kept: every start of a container asks
_CLIENT_MOUNT = re.compile(r"^modal-client-mount-(?P<version>\d+\.\d+(?:\.[0-9A-Za-z.+]+)?)$")


@dataclass(frozen=True)
class MountedFile:
    """`path` is absolute in the container; the content is known by its SHA-256 (hexadecimal)."""

    path: str
    sha256: str
    mode: int = 0o644


@dataclass(frozen=True)
class Mount:
    """`checksum` (SHA-256, hexadecimal) depends on the files alone."""

    id: str
    checksum: str


class Mounts:
    """All mounts. Their files lie in `contents`; a mount's tree is made when it is first needed."""

    def __init__(
        self,
        *,
        database: Database,
        contents: Contents,
        blobs: Blobs,
        directory: Path,
        damages: Damages | None = None,
    ) -> None:
        self._database = database
        self._contents = contents
        self._blobs = blobs
        self._damages = damages if damages is not None else Damages(database)
        self._trees = MountTrees(contents=contents, damages=self._damages, directory=directory)
        self._client_versions: dict[str, str | None] = {}
        self._answers: dict[tuple[str, Set[str]], bool] = {}

    def missing(self, sha256s: Sequence[str]) -> Sequence[str]:
        """Those of these contents that must still be uploaded. Raises InvalidArgument for what is not a digest."""
        return [sha256 for sha256 in sha256s if not self._contents.has(sha256)]

    async def put_file(self, sha256: str, data: bytes | None = None, blob_id: str = "") -> bool:
        """Stores a content given as bytes or as a blob, or (with neither) only asks; whether it is there now.

        Raises InvalidArgument when the digest of what was given is another, NotFound for an unknown blob.
        """
        if self._contents.has(sha256):
            return True
        if blob_id:
            await self._contents.add(sha256, self._blobs.stream(blob_id), await self._blobs.size(blob_id))
            self._blobs.delete_soon(blob_id)  # now kept by its digest
        elif data:
            await self._contents.add(sha256, _once(data), len(data))
        if blob_id or data:
            self._damages.whole(FILE, sha256)
            return True
        return False

    async def create(self, files: Sequence[MountedFile], name: str = "", *, if_exists: str = "replace") -> Mount:
        """A mount of files whose contents were stored before; equal files give the same mount.

        name: "" for anonymous ones. if_exists (for a name): "replace" what it stands for, or "fail" with AlreadyExists.
        Raises InvalidArgument, NotFound for a content that was not uploaded.
        """
        chosen = {file.path: file for file in map(_checked, files)}
        rows = [(file.path, file.sha256, file.mode) for _, file in sorted(chosen.items())]
        _check_paths([file.path for file in chosen.values()])
        absent = self.missing(sorted({sha256 for _, sha256, _ in rows}))
        if absent:
            raise NotFound(f"{len(absent)} files of this mount were not uploaded (the first has SHA-256 {absent[0]}).")
        document = json.dumps(rows).encode()
        mount = Mount(content_id("mo", name.encode() + b"\0" + document), hashlib.sha256(document).hexdigest())

        def work(connection: sa.Connection) -> None:
            mounts = tables.mounts
            if name:
                if not is_name(name):
                    raise InvalidArgument(
                        f"{name!r} cannot name a mount: use 1 to 64 letters, digits, '-', '_' and '.'."
                    )
                same_name = mounts.c.name == name
                if if_exists == "fail" and connection.execute(sa.select(mounts.c.id).where(same_name)).first():
                    raise AlreadyExists(f"The mount {name!r} exists already.")
                connection.execute(sa.update(mounts).where(same_name).values(name=""))
            if connection.execute(sa.select(mounts.c.id).where(mounts.c.id == mount.id)).first():
                connection.execute(sa.update(mounts).where(mounts.c.id == mount.id).values(name=name))
            else:
                connection.execute(sa.insert(mounts), [_row(mount, name, rows)])

        await self._database.write(work)
        return mount

    async def find(self, name: str) -> Mount:
        """The mount of that name. `modal-client-mount-<version>` stands for the client of that version, and
        `python-build-standalone.<release>.<version>-<libc>` for a Python that a build fetches. Raises NotFound."""
        if _CLIENT_MOUNT.match(name):
            return await self._client_mount(name)
        if pythons.named(name) is not None:
            mount = _stand_in("python", name)
            await self._database.write(lambda connection: _add(connection, mount, name))
            return mount
        with self._database.read() as connection:
            row = connection.execute(sa.select(tables.mounts).where(tables.mounts.c.name == name)).first()
        if row is None:
            raise NotFound(f"There is no mount {name!r} on this server.")
        return Mount(row.id, row.checksum)

    def client_version(self, mount_id: str) -> str | None:
        """The version when this mount stands for the modal client, else None. Raises NotFound for an unknown mount."""
        if mount_id not in self._client_versions:
            match = _CLIENT_MOUNT.match(self._load(mount_id).name)
            self._client_versions[mount_id] = match["version"] if match else None
        return self._client_versions[mount_id]

    def standalone_python(self, mount_id: str) -> str:
        """The name of this mount when it stands for a standalone Python, else "". Raises NotFound for an unknown mount."""
        name = str(self._load(mount_id).name)
        return name if pythons.named(name) is not None else ""

    def has_any(self, mount_id: str, paths: Set[str]) -> bool:
        """Whether a mount has a file at one of these paths, which are absolute. Raises NotFound for an unknown mount."""
        asked = mount_id, paths
        if asked not in self._answers:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            self._answers[asked] = any(path in paths for path, *_ in self._load(mount_id).files)
        return self._answers[asked]

    async def tree(self, mount_id: str) -> Path:
        """A directory that holds the files of a mount as they are to appear at "/". Read-only. Raises NotFound, or Damaged."""
        return await self._trees.get(mount_id, lambda: self._load(mount_id).files)

    async def close(self) -> None:
        await self._trees.close()

    async def _client_mount(self, name: str) -> Mount:
        mount = _stand_in("client", name)
        if mount.id not in self._client_versions:  # every function of every app asks for it
            await self._database.write(lambda connection: _add(connection, mount, name))
            self.client_version(mount.id)
        return mount

    def _load(self, mount_id: str) -> Any:
        with self._database.read() as connection:
            row = connection.execute(sa.select(tables.mounts).where(tables.mounts.c.id == mount_id)).first()
        if row is None:
            raise NotFound(f"There is no mount {mount_id!r} on this server.")
        return row


def _stand_in(kind: str, name: str) -> Mount:
    """A mount known by its name alone."""
    return Mount(content_id("mo", kind.encode() + b"\0" + name.encode()), hashlib.sha256(name.encode()).hexdigest())


def _add(connection: sa.Connection, mount: Mount, name: str) -> None:
    if not connection.execute(sa.select(tables.mounts.c.id).where(tables.mounts.c.id == mount.id)).first():
        connection.execute(sa.insert(tables.mounts), [_row(mount, name, [])])


def _row(mount: Mount, name: str, files: Sequence[object]) -> Mapping[str, object]:
    return {"id": mount.id, "name": name, "files": files, "checksum": mount.checksum, "created_at": time.time()}


def _checked(file: MountedFile) -> MountedFile:
    if not file.path.startswith("/") or not parts_of(file.path) or file.path.endswith("/"):
        raise InvalidArgument(f"{file.path!r} cannot be a file of a mount: it must be an absolute path of a file.")
    path = "/" + "/".join(parts_of(file.path))
    return MountedFile(path, file.sha256, file.mode & 0o777)


def _check_paths(paths: Sequence[str]) -> None:
    known = set(paths)
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in known:
                raise InvalidArgument(f"{parent!r} is both a file and a directory of this mount.")
            parent = parent.rpartition("/")[0]


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
