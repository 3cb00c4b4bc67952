"""A directory whose content is not trusted: sandboxes write to it while the server works in it.

Every path is resolved component by component with O_NOFOLLOW from an open directory, so no symbolic link (however it is swapped in) and
no ".." can lead outside. Links that stay inside are followed by reading their text and starting again from the root. All methods block.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from stoker.store.incoming import disk_errors

Parts = tuple[str, ...]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a FIFO must not wait
_MAX_LINKS = 40


@dataclass(frozen=True)
class Entry:
    """What a directory holds. `path` is relative to the root, without a leading slash; `mtime` in whole seconds; `size` in bytes."""

    path: str
    mode: int
    mtime: int
    size: int


def parts_of(path: str) -> Parts:
    """The components of a path given by a user. Raises InvalidArgument for one that could not be inside."""
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise InvalidArgument(f"The path {path!r} contains '..', which is not allowed. Give the path without it.")
    for part in parts:
        if "\0" in part or len(os.fsencode(part)) > 255:
            raise InvalidArgument(f"The path {path[:300]!r} has a component that is too long or contains a zero byte.")
    if len(path) > 4000:
        raise InvalidArgument(f"The path {path[:100]!r}... is longer than 4000 characters.")
    return parts


class FileTree:
    """`root` must exist and is trusted; nothing below it is. `name` is how messages call the tree."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self._name = name

    @contextmanager
    def directory(self, parts: Parts, *, create: bool = False) -> Iterator[int]:
        """An open directory. create: makes what is missing. Raises NotFound, FailedPrecondition."""
        descriptor = self._open_directory(parts, create)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def file(self, parts: Parts) -> Iterator[int]:
        """An open regular file, for reading. Raises NotFound, FailedPrecondition."""
        descriptor = self.open_file(parts)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open_file(self, parts: Parts) -> int:
        """As `file`; the caller closes the descriptor."""
        real = self.resolve(parts)
        with self._messages(parts), self.directory(real[:-1]) as parent:
            if not real:
                raise IsADirectoryError(errno.EISDIR, "is a directory")
            descriptor = os.open(real[-1], _FILE, dir_fd=parent)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise FailedPrecondition(f"{self._at(parts)} is {what}, so it cannot be read.")
        return descriptor

    def resolve(self, parts: Parts) -> Parts:
        """The same place without symbolic links. Raises NotFound, or FailedPrecondition for a link that leads outside."""
        todo, links = parts, 0
        while True:
            found = self._first_link(todo)
            if found is None:
                return todo
            at, target = found
            links += 1
            if links > _MAX_LINKS or target.startswith("/"):
                reason = "too many links" if links > _MAX_LINKS else f"a link to {target!r}, outside"
                raise FailedPrecondition(f"{self._at(parts)} goes through {reason}, so the server does not follow it.")
            todo = self._joined(todo[:at], target, parts) + todo[at + 1 :]

    def stat(self, parts: Parts) -> os.stat_result | None:
        """The status of an entry itself (a final link is not followed); None when it is not there."""
        if not parts:
            return os.stat(self.root)
        try:
            with self.directory(parts[:-1]) as parent:
                return os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        except (NotFound, FileNotFoundError):
            return None

    def walk(self, parts: Parts, *, recursive: bool) -> Iterator[Entry]:
        """A file itself, or what is in a directory, sorted, each directory before its content. Raises NotFound.

        `parts` may be a link that stays inside, and stands for its target; links below are entries of their own."""
        status = self.stat(parts)
        if status is None:
            raise NotFound(f"{self._at(parts)} does not exist.")
        if stat.S_ISLNK(status.st_mode):
            with suppress(NotFound, FailedPrecondition):
                target = self.stat(self.resolve(parts))
                status = target or status
        if not stat.S_ISDIR(status.st_mode):
            yield _entry(parts, status)
            return
        waiting = [parts]
        while waiting:
            current = waiting.pop()
            entries = self.scan(current)
            below = [e for e in entries if stat.S_ISDIR(e[1].st_mode)] if recursive else []
            for name, status in entries:
                yield _entry((*current, name), status)
            waiting += [(*current, name) for name, _ in reversed(below)]

    def scan(self, parts: Parts) -> list[tuple[str, os.stat_result]]:
        """Names and statuses in a directory, sorted; nothing when it has gone."""
        found = []
        with (
            suppress(NotFound, FailedPrecondition),
            self.directory(parts) as descriptor,
            os.scandir(descriptor) as entries,
        ):
            for entry in entries:
                with suppress(FileNotFoundError):  # removed since
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
        return sorted(found)

    def publish(self, source: Path, parts: Parts, *, overwrite: bool, sync: bool = False) -> None:
        """Moves a finished file (of the same file system) to its place in one step, replacing a file there if allowed.

        Makes missing directories. sync: its name is on the disk afterwards. Raises AlreadyExists, also for a directory in its place.
        """
        if not parts:
            raise InvalidArgument(f"The root of {self._name} is a directory; name a file in it.")
        with self._messages(parts), disk_errors(), self.directory(parts[:-1], create=True) as parent:
            if overwrite:
                try:
                    os.rename(source, parts[-1], dst_dir_fd=parent)
                except (IsADirectoryError, NotADirectoryError, FileExistsError):
                    raise AlreadyExists(f"{self._at(parts)} is a directory; a file cannot replace it.") from None
            else:
                try:
                    os.link(source, parts[-1], dst_dir_fd=parent, follow_symlinks=False)
                except FileExistsError:
                    raise AlreadyExists(
                        f"{self._at(parts)} already exists. Overwrite it with --force (force=True)."
                    ) from None
                os.unlink(source)
            if sync:
                os.fsync(parent)

    def check_target(self, parts: Parts, *, overwrite: bool) -> None:
        """Raises what `publish` would raise now, so that nothing is uploaded in vain."""
        status = self.stat(parts)
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise AlreadyExists(f"{self._at(parts)} is a directory; a file cannot replace it.")
        if status is not None and not overwrite:
            raise AlreadyExists(f"{self._at(parts)} already exists. Overwrite it with --force (force=True).")

    def check_removal(self, parts: Parts, *, recursive: bool) -> None:
        """Raises what `take_out` would raise now."""
        with self._removal(parts, recursive):
            pass

    def take_out(self, parts: Parts, target: Path, *, recursive: bool) -> None:
        """Moves a file, or with `recursive` a directory, out of the tree in one step. Raises NotFound, FailedPrecondition."""
        with self._removal(parts, recursive) as parent:
            os.rename(parts[-1], target, src_dir_fd=parent)

    def make_directory(self, parts: Parts) -> Path:
        """Makes a directory where there is none; returns its path on the host, free of links at this moment."""
        real = self.resolve_existing(parts)
        with self.directory(real, create=True):
            return self.root.joinpath(*real)

    def resolve_existing(self, parts: Parts) -> Parts:
        """As `resolve`, but the end of the path may be missing."""
        for length in range(len(parts), 0, -1):
            with suppress(NotFound):
                return self.resolve(parts[:length]) + parts[length:]
        return parts

    @contextmanager
    def _removal(self, parts: Parts, recursive: bool) -> Iterator[int]:
        if not parts:
            raise InvalidArgument(
                f"The root of {self._name} cannot be removed; remove what is in it, or delete the volume."
            )
        with self._messages(parts), self.directory(parts[:-1]) as parent:
            mode = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode) and not recursive:
                raise FailedPrecondition(
                    f"{self._at(parts)} is a directory. Remove it with --recursive (recursive=True)."
                )
            yield parent

    def _open_directory(self, parts: Parts, create: bool) -> int:
        with self._messages(parts), disk_errors():
            descriptor = os.open(self.root, _DIRECTORY)
            for index, part in enumerate(parts):
                try:
                    descriptor = _step(descriptor, part, create)
                except OSError as error:
                    os.close(descriptor)
                    is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
                    real = self.resolve(parts[: index + 1]) + parts[index + 1 :] if is_link else parts
                    if real == parts:
                        raise
                    return self._open_directory(real, create)
        return descriptor

    def _first_link(self, parts: Parts) -> tuple[int, str] | None:
        """Index and text of the first symbolic link on a path. Raises NotFound when the path ends before."""
        descriptor = os.open(self.root, _DIRECTORY)
        try:
            with self._messages(parts):
                for index, part in enumerate(parts):
                    target = _link_text(descriptor, part)
                    if target is not None:
                        return index, target
                    if index + 1 < len(parts):
                        descriptor = _step(descriptor, part, False)
        finally:
            os.close(descriptor)
        return None

    def _joined(self, base: Parts, target: str, asked: Parts) -> Parts:
        joined = list(base)  # holds no links, so ".." may be taken literally
        for part in target.split("/"):
            if part == "..":
                if not joined:
                    raise FailedPrecondition(f"{self._at(asked)} goes through a link that leads outside {self._name}.")
                joined.pop()
            elif part not in ("", "."):
                joined.append(part)
        return tuple(joined)

    @contextmanager
    def _messages(self, parts: Parts) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"{self._at(parts)} does not exist.") from None
        except NotADirectoryError:
            raise FailedPrecondition(f"{self._at(parts)}: a part of this path is not a directory.") from None
        except IsADirectoryError:
            raise FailedPrecondition(f"{self._at(parts)} is a directory.") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM):
                raise FailedPrecondition(f"{self._at(parts)} cannot be used: {error.strerror}.") from None
            raise

    def _at(self, parts: Parts) -> str:
        return f"{'/' + '/'.join(parts)!r} in {self._name}"


def _step(parent: int, name: str, create: bool) -> int:
    """Goes from an open directory to one in it, and closes the first. When it fails, `parent` stays open."""
    try:
        child = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
        child = os.open(name, _DIRECTORY, dir_fd=parent)
    os.close(parent)
    return child


def _link_text(parent: int, name: str) -> str | None:
    """The text of a symbolic link, None for anything else; one system call, so nothing can be swapped in between."""
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _entry(parts: Parts, status: os.stat_result) -> Entry:
    # A name need not be text; a protobuf string must.
    path = "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Entry(path, status.st_mode, int(status.st_mtime), status.st_size)
