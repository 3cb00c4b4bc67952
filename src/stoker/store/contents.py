"""Files by the SHA-256 of their content: what mounts and uploads to volumes are made of."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from stoker.errors import Damaged, InvalidArgument, NotFound
from stoker.integrity.blocks import Sums
from stoker.store.incoming import Incoming, copy_range, disk_errors, file_digest, sweep_incoming

MODE = 0o644
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_DAMAGED = ".damaged-"  # begins the name of a content that was put aside
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


class Contents:
    """A directory of immutable files, each named by its digest and stored with mode 0644. The empty file is always there."""

    def __init__(self, directory: Path, *, sync: bool = False, look: bool = False) -> None:
        """sync: a content is on the disk before it counts as stored, so that it survives a power cut. look: somebody only looks, perhaps while
        a server uses the directory."""
        self._directory = directory
        self._sync = sync
        if look:
            return
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep_incoming(directory)
        self._make_empty()

    def has(self, sha256: str) -> bool:
        """Raises InvalidArgument for what is not a digest."""
        return self._path(sha256).exists()

    def path(self, sha256: str) -> Path:
        """The read-only file of that content. Raises NotFound."""
        path = self._path(sha256)
        if not path.exists():
            raise NotFound(f"The file with SHA-256 {sha256} was not uploaded to this server.")
        return path

    async def add(self, sha256: str, chunks: AsyncIterator[bytes], size: int) -> None:
        """Stores a stream of `size` bytes. Raises InvalidArgument when its digest is another."""
        path = self._path(sha256)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with Incoming(self._directory, limit=size, algorithm="sha256", mode=MODE, sync=self._sync) as incoming:
            await incoming.fill(chunks)
            if incoming.hexdigest() != sha256:
                raise InvalidArgument(
                    f"The uploaded content has SHA-256 {incoming.hexdigest()}, not {sha256} as announced; "
                    "the file may have changed while it was uploaded. Try again."
                )
            await incoming.settle(path)

    def check(self, sha256: str, sums: Sums | None = None) -> None:
        """Reads a content. sums: gets all bytes, too. Blocks. Raises NotFound, or Damaged for one that the disk has changed: it is put aside and
        counts as missing, so that whoever has it sends it again."""
        path = self.path(sha256)
        if file_digest(path, "sha256", sums=sums) == sha256:
            return
        self.put_aside(sha256)
        raise Damaged(f"The file with SHA-256 {sha256} has another content on the server's disk.")

    def put_aside(self, sha256: str) -> None:
        """A damaged content counts as missing from now on; it is kept under another name."""
        with contextlib.suppress(FileNotFoundError):
            path = self._path(sha256)
            os.replace(path, path.with_name(f"{_DAMAGED}{sha256}"))
        if sha256 == EMPTY:
            self._make_empty()

    def place(self, sha256: str, target: Path, mode: int) -> None:
        """Makes a new file with this content, which is checked before: a hard link where the mode allows it, else a copy. Blocks. Raises
        NotFound, Damaged."""
        self.check(sha256)
        source = self.path(sha256)
        with disk_errors():
            if mode == MODE:
                try:
                    os.link(source, target)
                    return
                except OSError as error:
                    if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
                        raise
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._copy_to(source, descriptor)
                status = source.stat()
                os.fchmod(descriptor, mode)
                # Equal content keeps one modification time, so that compiled Python files stay valid from mount to mount.
                os.utime(descriptor, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(descriptor)

    def copy_to(self, sha256: str, descriptor: int, sums: Sums | None = None) -> None:
        """Writes the content, which is checked before, into an open file. sums: gets all bytes, too. Blocks. Raises NotFound, Damaged."""
        self.check(sha256, sums)
        self._copy_to(self.path(sha256), descriptor)

    def all(self) -> Iterator[str]:
        """The digests of all contents. Blocks."""
        for directory in sorted(self._directory.iterdir()):
            if len(directory.name) == 2 and directory.is_dir():
                yield from sorted(name for name in os.listdir(directory) if _SHA256.match(name))

    def _copy_to(self, path: Path, descriptor: int) -> None:
        with path.open("rb", buffering=0) as source:
            copy_range(source.fileno(), descriptor, os.fstat(source.fileno()).st_size)

    def _make_empty(self) -> None:
        empty = self._path(EMPTY)
        empty.parent.mkdir(mode=0o700, exist_ok=True)
        empty.touch(MODE)
        empty.chmod(MODE)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.match(sha256):
            raise InvalidArgument(f"{sha256[:80]!r} is not a SHA-256 digest in lower-case hexadecimal.")
        return self._directory / sha256[:2] / sha256
