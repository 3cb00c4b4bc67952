"""Copies inside a file tree, as `cp` makes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.store.filetree import FileTree, Parts, parts_of
from stoker.store.incoming import Incoming, copy_range


class TreeCopy:
    """`scratch` is a directory on the tree's file system where files are made before they get their names. Everything blocks."""

    def __init__(self, tree: FileTree, scratch: Path) -> None:
        self._tree = tree
        self._scratch = scratch

    def copy(self, sources: Sequence[str], target: str, *, recursive: bool) -> None:
        """Copies files, and with `recursive` directories, to `target` or into it when it is a directory.

        Raises NotFound, FailedPrecondition, AlreadyExists or InvalidArgument.
        """
        if not sources:
            raise InvalidArgument("Nothing to copy: give at least one source and a target.")
        parts = self._tree.resolve_existing(parts_of(target))
        into = self._is_directory(parts)
        if not into and (len(sources) > 1 or target.endswith("/")):
            raise FailedPrecondition(
                f"The target {target!r} of the copy is not a directory. Create it first, or copy one file to one name."
            )
        for source in sources:
            real = self._tree.resolve(parts_of(source))
            if not real:
                raise InvalidArgument("The root of a volume cannot be copied into itself; copy what is in it.")
            end = (*parts, parts_of(source)[-1]) if into else parts
            self._copy_one(source, real, end, recursive)

    def _copy_one(self, source: str, real: Parts, end: Parts, recursive: bool) -> None:
        if not self._is_directory(real):
            if real == end:
                raise FailedPrecondition(f"{source!r} cannot be copied onto itself.")
            self._copy_file(real, end)
            return
        if not recursive:
            raise FailedPrecondition(f"{source!r} is a directory. Copy it with --recursive (recursive=True).")
        if end[: len(real)] == real:
            raise FailedPrecondition(f"The directory {source!r} cannot be copied into itself.")
        self._copy_directory(real, end)

    def _copy_directory(self, source: Parts, end: Parts) -> None:
        waiting = [(source, end)]
        while waiting:
            source, end = waiting.pop()
            with self._tree.directory(source) as old, self._tree.directory(end, create=True) as new:
                os.fchmod(new, stat.S_IMODE(os.fstat(old).st_mode) & 0o777)
            for name, status in self._tree.scan(source):
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(((*source, name), (*end, name)))
                elif stat.S_ISLNK(status.st_mode):
                    self._copy_link((*source, name), (*end, name))
                elif stat.S_ISREG(status.st_mode):
                    self._copy_file((*source, name), (*end, name))

    def _copy_file(self, source: Parts, end: Parts) -> None:
        with self._tree.file(source) as old, Incoming(self._scratch, limit=0, algorithm="md5") as new:
            status = os.fstat(old)
            os.ftruncate(new.fileno(), status.st_size)
            copy_range(old, new.fileno(), status.st_size)
            os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode) & 0o777)
            self._tree.publish(new.path, end, overwrite=True)

    def _copy_link(self, source: Parts, end: Parts) -> None:
        with self._tree.directory(source[:-1]) as old, self._tree.directory(end[:-1]) as new:
            if self._tree.stat(end) is None:
                os.symlink(os.readlink(source[-1], dir_fd=old), end[-1], dir_fd=new)

    def _is_directory(self, parts: Parts) -> bool:
        status = self._tree.stat(parts)
        return status is not None and stat.S_ISDIR(status.st_mode)
