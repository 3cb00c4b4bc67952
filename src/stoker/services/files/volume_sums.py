"""Digests of files that clients put into volumes: as long as no container has touched such a file, what is read of it can be checked.

A container writes into its volumes without the server's knowledge, and what it has written or touched is served as it is. That nobody has
touched a file is told by its change time, which no program can set. A file that was changed at a time when no container could have done it was
changed by the disk, or by somebody on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from stoker.aio.cancelling import finished
from stoker.aio.jobs import Jobs
from stoker.batches import batches
from stoker.errors import Damaged
from stoker.integrity.blocks import DIGEST_BYTES, TrimmedSums
from stoker.services.telemetry.damages import VOLUME_FILE, Damages
from stoker.store import tables
from stoker.store.assembly import BLOCK_BYTES
from stoker.store.database import Database
from stoker.store.filetree import parts_of

_REMEMBERED = 10_000  # files
_SWEPT_AT_ONCE = 2_000
_FOR_EVER = 1e18  # seconds since the epoch
_PIECE = 1 << 20
_rows = tables.volume_sums


@dataclass(frozen=True)
class FileSums:
    """`path` as `parts_of` has it. `sums`: the digests of its blocks of 8 MiB without their trailing zeros. The others say how the file was when
    they were right."""

    volume_id: str
    path_key: bytes
    path: str
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    sums: bytes

    @classmethod
    def of(cls, volume_id: str, path: str, status: os.stat_result, sums: bytes) -> FileSums:
        path = "/".join(parts_of(path))
        inode = status.st_ino - (1 << 64 if status.st_ino >= 1 << 63 else 0)  # as a database keeps it
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(volume_id, path_key(path), path, inode, status.st_size, *times, sums)

    def are_of(self, status: os.stat_result) -> bool:
        """Whether nobody has touched the file."""
        return self == FileSums.of(self.volume_id, self.path, status, self.sums)

    def is_right(self, file: int, index: int) -> bool:
        """Reads a block. Blocks the thread."""
        trimmed, offset = TrimmedSums(BLOCK_BYTES), index * BLOCK_BYTES
        end = min(self.size, offset + BLOCK_BYTES)
        while offset < end:
            piece = os.pread(file, min(_PIECE, end - offset), offset)
            if not piece:
                return False
            trimmed.update(piece)
            offset += len(piece)
        return trimmed.digests() == self.sums[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]


def path_key(path: str) -> bytes:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()


class VolumeSums:
    """The digests of files in volumes and network file systems, and until when containers could write there. Made by `Volumes`."""

    def __init__(self, database: Database, damages: Damages) -> None:
        self._database = database
        self._damages = damages
        self._jobs = Jobs("volume sums")
        self._recent: OrderedDict[tuple[str, bytes], FileSums | None] = OrderedDict()
        self._being_put: Counter[tuple[str, bytes]] = Counter()
        self._put_by_two: set[tuple[str, bytes]] = set()  # where nobody knows which of them is there in the end
        self._swept = ("", b"")  # the last one that was looked at
        with database.read() as connection:
            writers = connection.execute(sa.select(tables.volume_writers)).all()
        # Those of a server that was killed have ended by now.
        self._writers = {row.volume_id: min(row.until, time.time()) for row in writers}
        self._unnoted = {
            row.volume_id for row in writers if row.until == _FOR_EVER
        }  # where the database says something else

    async def put(self, volume_id: str, paths: Iterable[str], publish: Callable[[], Sequence[FileSums]]) -> None:
        """Replaces files. The digests of what was at `paths` go first, and those that `publish` returns are kept soon afterwards: whatever fails
        in between leaves a file without digests, and none with those of another. publish: runs in a thread, to its end."""
        keys = {(volume_id, path_key("/".join(parts_of(path)))) for path in paths}
        self._being_put.update(keys)
        self._put_by_two.update(key for key in keys if self._being_put[key] > 1)
        try:
            await self._forget(volume_id, keys)
            files = await finished(asyncio.to_thread(publish))
            self._keep([file for file in files if (volume_id, file.path_key) not in self._put_by_two])
        finally:
            self._being_put.subtract(keys)
            ended = {key for key in keys if not self._being_put[key]}
            self._put_by_two -= ended
            for key in ended:
                del self._being_put[key]

    async def remove(self, volume_id: str, path: str) -> None:
        """Forgets the digests of a file, or of all that is in a directory, which is about to be removed."""
        path = "/".join(parts_of(path))
        for key, file in list(self._recent.items()):
            if key[0] == volume_id and (file is None or f"{file.path}/".startswith(f"{path}/")):
                del self._recent[key]
        below = sa.or_(_rows.c.path == path, _rows.c.path.startswith(f"{path}/", autoescape=True))
        chosen = sa.delete(_rows).where(_rows.c.volume_id == volume_id, below)
        await self._database.write(partial(sa.Connection.execute, statement=chosen))
        self._damages.gone(VOLUME_FILE, f"{volume_id}/{path}")

    def removed_volume(self, volume_id: str) -> None:
        """Its files are gone."""
        self._damages.gone(VOLUME_FILE, volume_id)

    def may_be_written(self, volume_id: str) -> None:
        """From now on containers may write into the volume, until the next server begins."""
        if self._writers.get(volume_id) != _FOR_EVER:
            self._writers[volume_id] = _FOR_EVER
            self._unnoted.add(volume_id)
            with contextlib.suppress(RuntimeError):  # without a loop there is no server yet; `sweep` notes it
                asyncio.get_running_loop().call_soon(self._note_soon)

    def _note_soon(self) -> None:
        if self._unnoted:
            self._jobs.insist("note which volumes are written", self._note_writers)

    async def _note_writers(self) -> None:
        unnoted = {volume_id: self._writers[volume_id] for volume_id in self._unnoted}
        if unnoted:
            await self._database.write(partial(_store_writers, until=unnoted))
            self._unnoted -= {volume_id for volume_id, until in unnoted.items() if self._writers[volume_id] == until}

    def check(self, volume_id: str, path: str, file: int, start: int = 0, end: int = 0) -> None:
        """Looks at the size of an open file, and reads the blocks that [start, end) touches. Blocks the thread. Raises Damaged when they are not
        what was uploaded though no container can have changed the file; says nothing of a file without digests."""
        path = "/".join(parts_of(path))
        known = self._find(volume_id, path)
        status = os.fstat(file)
        if known is None or not self.counts(known, status):
            return
        if status.st_size != known.size:
            raise self._found(volume_id, path, f"it has {status.st_size} bytes, and {known.size} were uploaded")
        for index in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            if not known.is_right(file, index) and self.counts(known, os.fstat(file)):
                block = f"its block of 8 MiB at {index * BLOCK_BYTES}"
                raise self._found(volume_id, path, f"{block} has another SHA-256 than was uploaded")

    def counts(self, file: FileSums, status: os.stat_result) -> bool:
        """Whether a file must still have its digests: it is the one at its place, and no container can have touched it since."""
        in_place = status.st_nlink > 0  # what was replaced while it was open has no name any more
        return in_place and (file.are_of(status) or status.st_ctime > self._writers.get(file.volume_id, 0.0))

    async def sweep(self, status_of: Callable[[str, str], os.stat_result | None]) -> None:
        """Forgets files that are gone or were touched: looks at some of them, and the next time at the next ones. status_of: gives the status
        of a file of a volume, by the volume's id and the path in it."""
        await self._note_writers()
        outdated = await asyncio.to_thread(self._outdated, status_of)
        if outdated:
            await self._database.write(partial(_forget, files=outdated))

    async def close(self) -> None:
        """All containers have ended."""
        open_until_now = [volume_id for volume_id, until in self._writers.items() if until == _FOR_EVER]
        self._writers |= dict.fromkeys(open_until_now, time.time())
        self._unnoted.update(open_until_now)
        self._note_soon()
        await self._jobs.close(patience=10.0)

    async def _forget(self, volume_id: str, keys: Collection[tuple[str, bytes]]) -> None:
        for batch in batches([key for _, key in keys]):
            known = sa.and_(_rows.c.volume_id == volume_id, _rows.c.path_key.in_(batch))
            with self._database.read() as connection:
                some = connection.execute(sa.select(_rows.c.path_key).where(known).limit(1)).first()
            if some is not None:
                await self._database.write(partial(sa.Connection.execute, statement=sa.delete(_rows).where(known)))
        for key in keys:
            self._recent.pop(key, None)

    def _keep(self, files: Sequence[FileSums]) -> None:
        for file in files:
            self._remember((file.volume_id, file.path_key), file)
            self._damages.whole(VOLUME_FILE, f"{file.volume_id}/{file.path}")
        if files:
            work = partial(_store, files=list(files))
            self._jobs.start(f"store those of {len(files)} files", self._database.write(work))

    def _outdated(self, status_of: Callable[[str, str], os.stat_result | None]) -> list[FileSums]:
        columns = (_rows.c.volume_id, _rows.c.path_key)
        after = sa.tuple_(*columns) > sa.tuple_(*map(sa.literal, self._swept))
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_rows).where(after).order_by(*columns).limit(_SWEPT_AT_ONCE))
            files = [FileSums(**row._asdict()) for row in rows]
        self._swept = (files[-1].volume_id, files[-1].path_key) if len(files) == _SWEPT_AT_ONCE else ("", b"")
        return [file for file in files if self._is_outdated(file, status_of(file.volume_id, file.path))]

    def _is_outdated(self, file: FileSums, status: os.stat_result | None) -> bool:
        if status is None:
            return file.volume_id in self._writers  # else it is damage, and stays known
        return not self.counts(file, status)

    def _find(self, volume_id: str, path: str) -> FileSums | None:
        key = (volume_id, path_key(path))
        if key not in self._recent:
            chosen = sa.select(_rows).where(_rows.c.volume_id == volume_id, _rows.c.path_key == key[1])
            with self._database.read() as connection:
                row = connection.execute(chosen).first()
            self._remember(key, FileSums(**row._asdict()) if row is not None else None)
        return self._recent.get(key)

    def _remember(self, key: tuple[str, bytes], file: FileSums | None) -> None:
        self._recent[key] = file
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    def _found(self, volume_id: str, path: str, what: str) -> Damaged:
        return self._damages.found(
            VOLUME_FILE,
            f"{volume_id}/{path}",
            f"The file {path!r} of the volume {volume_id} is damaged on the server's disk: {what}. Upload it again, or restore it from a backup.",
        )


def _forget(connection: sa.Connection, files: Sequence[FileSums]) -> None:
    for file in files:
        connection.execute(sa.delete(_rows).where(_place(file), _rows.c.ctime_ns == file.ctime_ns))


def _place(file: FileSums) -> sa.ColumnElement[bool]:
    return sa.and_(_rows.c.volume_id == file.volume_id, _rows.c.path_key == file.path_key)


def _store_writers(connection: sa.Connection, until: Mapping[str, float]) -> None:
    writers = tables.volume_writers
    connection.execute(sa.delete(writers).where(writers.c.volume_id.in_(until)))
    connection.execute(sa.insert(writers), [{"volume_id": v, "until": time_} for v, time_ in until.items()])


def _store(connection: sa.Connection, files: Sequence[FileSums]) -> None:
    newest = {(file.volume_id, file.path_key): file for file in files}.values()
    for file in newest:
        connection.execute(sa.delete(_rows).where(_place(file)))
    connection.execute(sa.insert(_rows), [vars(file) for file in newest])
