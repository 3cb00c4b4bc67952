"""Users and groups as an image names them. Read inside its root (see chroot.py), from files that strangers may have written."""

from __future__ import annotations

import os
from typing import NamedTuple

from stoker.runtime.chroot import Refused

_LARGEST_LIST = 1 << 20  # characters of a file of users


class Account(NamedTuple):
    """Numbers of a user and its groups, and its home directory."""

    uid: int
    gid: int
    home: str
    others: list[int]


def account(user: str) -> Account:
    """That of "name", "name:group" or numbers. Raises Refused for a name that the image does not have."""
    name, _, group = user.partition(":")
    found = _entry("/etc/passwd", name)
    if found is None and not name.isdecimal():
        raise Refused(f"the image has no user {name!r}")
    uid, gid, home = (int(found[2]), int(found[3]), found[5]) if found else (int(name), 0, "")
    if group:
        entry = _entry("/etc/group", group)
        if entry is None and not group.isdecimal():
            raise Refused(f"the image has no group {group!r}")
        gid = int(entry[2] if entry else group)
    others = [] if group or found is None else _groups_of(found[0])
    return Account(uid, gid, home or ("/" if uid else "/root"), others)


def _entry(path: str, name: str) -> list[str] | None:
    """The line of `path` for the name or number `name`."""
    lines = _lines(path, 6 if path == "/etc/passwd" else 4)
    return next((line for column in (0, 2) for line in lines if line[column] == name), None)


def _groups_of(name: str) -> list[int]:
    return [int(line[2]) for line in _lines("/etc/group", 4) if name in line[3].split(",")]


def _lines(path: str, fields: int) -> list[list[str]]:
    """Those with so many fields and numbers where they belong."""
    try:
        # Not blocking: it may be a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8", errors="replace") as file:
            lines = [line.split(":") for line in file.read(_LARGEST_LIST).splitlines()]
    except OSError:
        return []
    return [line for line in lines if len(line) >= fields and all(part.isdecimal() for part in line[2 : fields - 2])]
