"""The build context: the client's files and its context mount as one directory tree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from stoker.errors import InvalidArgument


def materialise(directory: Path, files: Mapping[str, bytes], mount_tree: Path | None) -> Path:
    """The directory to build from: `mount_tree` itself when there is nothing to add, else a tree of hard links made in `directory`.

    Raises InvalidArgument for a file name that leaves the context."""
    if mount_tree is not None and not files:
        return mount_tree
    if mount_tree is not None:
        shutil.copytree(mount_tree, directory, symlinks=True, copy_function=_link, dirs_exist_ok=True)
    directory.mkdir(exist_ok=True)
    for name, data in files.items():
        parts = PurePosixPath("/", name).parts[1:]
        if not parts or ".." in parts:
            raise InvalidArgument(f"The build context has a file named {name!r}, which is outside of it.")
        path = directory.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never through a hard link: that would change the mount's own file.
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    return directory


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target
