"""Says what the processes of a container hold open. Run in there by `inspection.py`, as root with CAP_SYS_PTRACE:

    python -I -S -c <this text> PLACE...

Free of dependencies, for it runs on the image's own Python. Prints one JSON document with

- "sockets": [protocol, local address, remote address, state, process], the addresses and the state as /proc/net has them. The protocol is tcp,
  tcp6 or udp; "other" is a socket that gVisor lists nowhere, such as one for UDP over IPv6.
- "files": [path, process, deleted, replaced, writable, mapped, directory]: those at or below the PLACEs, working directories among them, and
  wherever they are those of the disk that were deleted.
- "processes": {process: name}
"""

from __future__ import annotations

import json
import os
import stat
import sys

TYPE_CHECKING = False  # without an import of `typing`, which takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MOST = 5_000
"""Sockets, and files, that are listed."""
_DELETED = " (deleted)"
_TABLES = ("tcp", "tcp6", "udp", "unix")


class Files:
    """What was found, each once, with the first process that has it."""

    def __init__(self, places: list[str]) -> None:
        self._places = places
        self._disks = _disks()
        self._seen: set[tuple[str, bool, bool, bool]] = set()
        self.found: list[list[Any]] = []

    def wants(self, path: str) -> bool:
        return path.startswith("/") and (path.endswith(_DELETED) or self._below_a_place(path))

    def add(self, path: str, pid: str, inode: tuple[int, int], writable: bool, mapped: bool) -> None:
        """inode: of what is open, with its device."""
        now = _status(path)
        deleted = path.endswith(_DELETED) and now is None
        if deleted:
            path = path[: -len(_DELETED)]
            if inode[0] not in self._disks:
                return  # gVisor has it in memory, and saves it
        key = (path, deleted, writable, mapped)
        if key in self._seen or len(self._seen) == MOST:
            return
        self._seen.add(key)
        replaced = not deleted and (now is None or (now.st_dev, now.st_ino) != inode)
        directory = now is not None and stat.S_ISDIR(now.st_mode)
        self.found.append([path, pid, deleted, replaced, writable, mapped, directory])

    def _below_a_place(self, path: str) -> bool:
        return any(path == place or path.startswith(place + "/") for place in self._places)


def main(places: list[str]) -> None:
    files = Files(places)
    holders: dict[str, str] = {}  # of sockets, by inode
    names: dict[str, str] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid == str(os.getpid()):
            continue
        try:
            _look_at(pid, files, holders)
            names[pid] = _name(pid)
        except OSError:
            continue  # it has ended
    print(json.dumps({"sockets": list(_sockets(holders))[:MOST], "files": files.found, "processes": names}))


def _look_at(pid: str, files: Files, holders: dict[str, str]) -> None:
    for name in ["cwd", *("fd/" + number for number in os.listdir(f"/proc/{pid}/fd"))]:
        link = f"/proc/{pid}/{name}"
        try:
            path = os.readlink(link)
            if path.startswith("socket:["):
                holders.setdefault(path[8:-1], pid)
            elif files.wants(path):
                status = os.stat(link)
                writable = name != "cwd" and _is_writable(f"/proc/{pid}/fdinfo/{name[3:]}")
                files.add(path, pid, (status.st_dev, status.st_ino), writable, False)
        except OSError:
            continue  # closed
    with open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
        for line in maps:
            _, access, _, device, inode, *rest = line.rstrip("\n").split(None, 5)
            if rest and files.wants(rest[0]):
                major, minor = device.split(":")
                place = os.makedev(int(major, 16), int(minor, 16)), int(inode)
                files.add(rest[0], pid, place, "w" in access and "s" in access, True)


def _sockets(holders: dict[str, str]) -> Iterator[list[Any]]:
    listed = set()
    for table in _TABLES:
        try:
            with open(f"/proc/net/{table}") as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        for row in rows:
            inode = row[6 if table == "unix" else 9]
            listed.add(inode)
            if table != "unix":
                yield [table, row[1], row[2], int(row[3], 16), holders.get(inode, "")]
    for inode in set(holders) - listed:
        yield ["other", "", "", 0, holders[inode]]


def _is_writable(fdinfo: str) -> bool:
    with open(fdinfo) as lines:
        for line in lines:
            if line.startswith("flags:"):
                return bool(int(line.split()[1], 8) & os.O_ACCMODE)
    return False


def _name(pid: str) -> str:
    with open(f"/proc/{pid}/cmdline", errors="replace") as file:
        return os.path.basename(file.read(300).split("\0")[0])


def _disks() -> set[int]:
    """The devices of file systems that are directories of the host."""
    devices = set()
    with open("/proc/self/mounts", "rb") as lines:
        for _, place, kind, *_ in map(bytes.split, lines):
            status = _status(os.fsdecode(place.decode("unicode_escape").encode("latin-1")))
            if kind == b"9p" and status is not None:
                devices.add(status.st_dev)
    return devices


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
