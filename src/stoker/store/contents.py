"""Files by the SHA-256 of their content: what mounts and uploads to volumes are made of."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

from stoker.errors import InvalidArgument, NotFound
from stoker.store.incoming import Incoming, copy_range, disk_errors, sweep_incoming

MODE = 0o644
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


class Contents:
    """A directory of immutable files, each named by its digest and stored with mode 0644. The empty file is always there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep_incoming(directory)
        empty = self._path(EMPTY)
        empty.parent.mkdir(mode=0o700, exist_ok=True)
        empty.touch(MODE)
        empty.chmod(MODE)

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
        with Incoming(self._directory, limit=size, algorithm="sha256", mode=MODE) as incoming:
            await incoming.fill(chunks)
            if incoming.hexdigest() != sha256:
                raise InvalidArgument(
                    f"The uploaded content has SHA-256 {incoming.hexdigest()}, not {sha256} as announced; "
                    "the file may have changed while it was uploaded. Try again."
                )
            incoming.move_to(path)

    def place(self, sha256: str, target: Path, mode: int) -> None:
        """Makes a new file with this content: a hard link where the mode allows it, else a copy. Blocks. Raises NotFound."""
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
                self.copy_to(sha256, descriptor)
                status = source.stat()
                os.fchmod(descriptor, mode)
                # Equal content keeps one modification time, so that compiled Python files stay valid from mount to mount.
                os.utime(descriptor, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(descriptor)

    def copy_to(self, sha256: str, descriptor: int) -> None:
        """Writes the content into an open file. Blocks. Raises NotFound."""
        with self.path(sha256).open("rb", buffering=0) as source:
            copy_range(source.fileno(), descriptor, os.fstat(source.fileno()).st_size)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.match(sha256):
            raise InvalidArgument(f"{sha256[:80]!r} is not a SHA-256 digest in lower-case hexadecimal.")
        return self._directory / sha256[:2] / sha256
