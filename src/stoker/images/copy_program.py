"""Copies files into an image that is being built. A program of its own, run as root:

    python -I -S copy_program.py JOB

It must run in a mount namespace of its own, which all that it mounts ends with. JOB is a JSON file, see `Job`. It exits with 1 when something
could not be copied, which it says on its standard error. It runs nothing of the image, and no link in there leads out of it: files are
opened below a directory that counts as "/", and written by a child that is chrooted to the image.
"""

from __future__ import annotations

import bz2  # noqa: F401  tarfile wants it, and must find it before the root is another one
import fnmatch
import gzip  # noqa: F401
import json
import lzma  # noqa: F401
import os
import resource
import stat
import sys
import tarfile
from collections.abc import Iterator
from typing import TypedDict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from stoker.runtime import linux
from stoker.runtime.accounts import account
from stoker.runtime.chroot import Refused, in_root, make_directories

_MEMORY = 1 << 30
_WILD = frozenset("*?[")


class Job(TypedDict):
    """`layers` (host directories, uppermost first) with `directory`/upper on top are the image; `directory`/overlay is room on the same file
    system, and `mounts` an empty directory.

    origin: the directories whose files are copied: one, or layers (uppermost first). items: paths in there, with wild cards; none: only the
    directory `target` is made. owner: "user:group" as the image names them, empty for root, or for the owners they have when `keep_owners`.
    mode: octal, empty for the modes they have. unpack: whether archives are unpacked."""

    directory: str
    mounts: str
    layers: list[str]
    origin: list[str]
    items: list[str]
    target: str
    owner: str
    keep_owners: bool
    mode: str
    unpack: bool


def main(path: str) -> int:
    with open(path) as file:
        job: Job = json.load(file)
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))  # what an archive's head says of itself may be anything
    root = _overlay(f"{job['mounts']}/root", job["layers"], job["directory"])
    try:
        if not job["items"]:
            in_root(root, lambda: make_directories(job["target"]))
            return 0
        origin = job["origin"][0] if len(job["origin"]) == 1 else _overlay(f"{job['mounts']}/origin", job["origin"])
        source = os.open(origin, os.O_RDONLY | os.O_DIRECTORY)
        in_root(root, lambda: _Copying(job, source).copy())
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _overlay(place: str, layers: list[str], room: str = "") -> str:
    """Where `layers` (uppermost first) lie on each other, below `room`/upper when there is one."""
    links, target, empty = (f"{place}-{part}" for part in ("links", "target", "empty"))
    for path in (links, target, empty):
        os.mkdir(path)
    layers = list(dict.fromkeys(layers))
    if len(layers) < 2 and not room:
        layers.append(empty)
    for index, layer in enumerate(layers):
        os.symlink(layer, f"{links}/{index}")
    # Short names relative to the working directory: all must fit into one page.
    os.chdir(links)
    # The layer must mean the same wherever it is mounted later: no references from one layer into another.
    options = f"lowerdir={':'.join(map(str, range(len(layers))))},index=off,redirect_dir=off,metacopy=off"
    if room:
        for name in ("upper", "overlay"):
            os.symlink(f"{room}/{name}", f"{links}/{name}")
        options += ",upperdir=upper,workdir=overlay"
    linux.mount("overlay", target, "overlay", linux.MS_NODEV, options)
    return target


class _Copying:
    """In the image's root. `source` is a descriptor of the directory that items are found in."""

    def __init__(self, job: Job, source: int) -> None:
        self._job = job
        self._source = source
        self._owner: tuple[int, int] | None = (0, 0)
        if job["owner"]:
            found = account(job["owner"])
            self._owner = (found.uid, found.gid if ":" in job["owner"] else _own_group(job["owner"], found.gid))
        elif job["keep_owners"]:
            self._owner = None
        self._mode = int(job["mode"], 8) if job["mode"] else None

    def copy(self) -> None:
        items = [found for item in self._job["items"] for found in self._found(item)]
        target = self._job["target"]
        into = target.endswith(("/", "/.")) or len(items) > 1 or os.path.isdir(target)
        for item in items:
            file = linux.open_in(self._source, item, os.O_RDONLY | os.O_NONBLOCK)
            mode = os.fstat(file).st_mode
            if stat.S_ISDIR(mode):
                self._copy_directory(file, os.path.normpath(target))
            elif not stat.S_ISREG(mode):
                raise Refused(f"{item}: neither a file nor a directory")
            elif not (self._job["unpack"] and self._unpack(file, target)):
                path = os.path.join(target, os.path.basename(item)) if into else target
                make_directories(os.path.dirname(os.path.normpath(path)))
                self._copy_file(file, os.path.normpath(path))

    def _found(self, item: str) -> Iterator[str]:
        """The paths that `item` stands for. Raises Refused when there is none."""
        if not _WILD & set(item):
            try:
                os.close(linux.open_in(self._source, item))
            except OSError as error:
                raise Refused(f"{item}: no such file or directory in what it is copied from") from error
            yield item
            return
        paths = [""]
        for part in item.split("/"):
            paths = [f"{path}/{name}".lstrip("/") for path in paths for name in self._names(path, part)]
        if not paths:
            raise Refused(f"{item}: nothing of this kind in what it is copied from")
        yield from paths

    def _names(self, path: str, part: str) -> list[str]:
        if not _WILD & set(part):
            names = [part]
        else:
            try:
                directory = linux.open_in(self._source, path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                return []
            # Docker's `[^a]` is `[!a]` here.
            names = sorted(fnmatch.filter(os.listdir(directory), part.replace("[^", "[!")))
            os.close(directory)
        return [name for name in names if self._exists(f"{path}/{name}")]

    def _exists(self, path: str) -> bool:
        try:
            os.close(linux.open_in(self._source, path))
        except OSError:
            return False
        return True

    def _copy_directory(self, directory: int, target: str) -> None:
        """What is in it. Takes the descriptor over."""
        made = make_directories(target)
        for path in made:
            self._own(path, os.fstat(directory))
        if made:
            os.chmod(target, self._mode or stat.S_IMODE(os.fstat(directory).st_mode))
        self._copy_tree(directory, target)

    def _copy_tree(self, directory: int, target: str) -> None:
        for name in sorted(os.listdir(directory)):
            path = os.path.join(target, name)
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                if not os.path.isdir(path):
                    _make_way(path)
                    os.mkdir(path)
                    self._own(path, info)
                    os.chmod(path, self._mode or stat.S_IMODE(info.st_mode))
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                self._copy_tree(os.open(name, flags, dir_fd=directory), path)
            elif stat.S_ISLNK(info.st_mode):
                _make_way(path)
                os.symlink(os.readlink(name, dir_fd=directory), path)
                self._own(path, info)
            elif stat.S_ISREG(info.st_mode):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                self._copy_file(os.open(name, flags, dir_fd=directory), path)
        os.close(directory)

    def _copy_file(self, source: int, path: str) -> None:
        """Takes the descriptor over."""
        _make_way(path)
        with (
            open(source, "rb", buffering=0) as file,
            open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb", buffering=0) as target,
        ):
            info = os.fstat(source)
            while os.sendfile(target.fileno(), file.fileno(), None, 1 << 30):
                pass
            self._own(path, info)
            os.fchmod(target.fileno(), self._mode or stat.S_IMODE(info.st_mode))
            os.utime(target.fileno(), ns=(info.st_mtime_ns, info.st_mtime_ns))
            if self._owner is None and "security.capability" in os.listxattr(source):
                os.setxattr(target.fileno(), "security.capability", os.getxattr(source, "security.capability"))

    def _own(self, path: str, info: os.stat_result) -> None:
        uid, gid = self._owner or (info.st_uid, info.st_gid)
        os.chown(path, uid, gid, follow_symlinks=False)

    def _unpack(self, file: int, target: str) -> bool:
        """Unpacks an archive into the directory `target`; whether it was one."""
        with open(file, "rb", closefd=False) as source:
            try:
                archive = tarfile.open(fileobj=source)  # noqa: SIM115
            except tarfile.TarError:
                os.lseek(file, 0, os.SEEK_SET)
                return False
            make_directories(target)
            with archive:
                for member in archive:
                    self._extract(archive, member, target)
        os.close(file)
        return True

    def _extract(self, archive: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
        if member.ischr() or member.isblk() or member.isfifo():
            return
        # Here "/" is the image: whatever path or link the archive has stays in there.
        path = os.path.join(target, os.path.normpath(f"/{member.name}").lstrip("/"))
        if not member.isdir():
            make_directories(os.path.dirname(path))
            _make_way(path)
        if member.islnk():
            os.link(os.path.join(target, os.path.normpath(f"/{member.linkname}").lstrip("/")), path)
            return
        if member.issym():
            os.symlink(member.linkname, path)
        elif member.isdir():
            make_directories(path)
        elif (content := archive.extractfile(member)) is not None:
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                while chunk := content.read(1 << 20):
                    file.write(chunk)
        uid, gid = self._owner if self._job["owner"] and self._owner else (member.uid, member.gid)
        os.chown(path, uid, gid, follow_symlinks=False)
        if not member.issym():
            os.chmod(path, member.mode & 0o7777)
            os.utime(path, (member.mtime, member.mtime))


def _own_group(owner: str, gid: int) -> int:
    """A number alone is that of the group as well."""
    return int(owner) if owner.isdecimal() else gid


def _make_way(path: str) -> None:
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
        os.unlink(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
