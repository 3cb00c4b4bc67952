"""Removes from what a container wrote what belongs to every container: its name, its resolvers, its mount points. A program of its own:

    python -I -S tidy_program.py DIRECTORY

No link in there leads out of it."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from stoker.runtime.chroot import Refused, in_root, remove_empty

_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_MOUNTS = ("/__modal",)


def main(directory: str) -> int:
    try:
        in_root(directory, _tidy)
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _tidy() -> None:
    for path in _FILES:
        if os.path.isfile(path) or os.path.islink(path):
            os.unlink(path)
    for place in _MOUNTS:
        for root, _, names in os.walk(place, topdown=False):
            remove_empty([root, *(os.path.join(root, name) for name in names)])
    remove_empty(["/etc"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
