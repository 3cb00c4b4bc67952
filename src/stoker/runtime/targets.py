"""Making a mount's target exist without a root file system of one's own.

As root on Linux each container gets a private mount namespace with real bind mounts. Elsewhere a target becomes a symbolic link, shared
by the containers that want the same source there. What had to be created for it is written down first, so that a killed server's
leftovers are removed by the next one, and nothing that was there before is ever replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.runtime.base import BindMount

# Arguments: triples of source, target, options up to "--", then the command. Nothing is interpolated.
_MOUNT = 'while [ "$1" != -- ]; do mount -o "$3" "$1" "$2" || exit 125; shift 3; done; shift; exec "$@"'


class MountTargets:
    """The targets in use by the containers of one runtime. `journal` is a file of its own; `private` says whether containers get
    mount namespaces (None: where this machine and user can)."""

    def __init__(self, journal: Path, *, private: bool | None = None) -> None:
        self._journal = journal
        self._users: dict[str, set[str]] = {}  # path that we created -> ids of containers
        self._created: list[str] = []  # in the order of creation
        if private is None:
            private = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("unshare") is not None
        self._private = private

    def open(self) -> None:
        """Removes what a killed server left."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._created = [str(path) for path in json.loads(self._journal.read_text())]
        self._remove_unused()

    def take(self, id: str, mounts: Sequence[BindMount]) -> tuple[str, ...]:
        """Makes the targets of `mounts` for container `id`; returns the words to put before its command.

        Raises InvalidArgument, or FailedPrecondition naming the target that cannot be made and what to do."""
        for mount in mounts:
            if not mount.source.exists():
                raise InvalidArgument(f"{mount.source}, to be mounted at {mount.target}, does not exist on the host.")
            if self._private:
                self._make_point(id, mount)
            else:
                self._make_link(id, mount)
        if not mounts or not self._private:
            return ()
        words = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _MOUNT, "stoker"]
        for mount in mounts:
            words += [str(mount.source), mount.target, "rbind,ro" if mount.read_only else "rbind"]
        return (*words, "--")

    def give_back(self, id: str) -> None:
        """Removes what only container `id` still used."""
        for users in self._users.values():
            users.discard(id)
        self._remove_unused()

    def _make_point(self, id: str, mount: BindMount) -> None:
        target = Path(mount.target)
        if not target.exists() or str(target) in self._users:
            self._make_parents(id, target, mount)
            self._record(id, target)
            if mount.source.is_dir():
                target.mkdir(exist_ok=True)
            else:
                target.touch(exist_ok=True)

    def _make_link(self, id: str, mount: BindMount) -> None:
        target, source = Path(mount.target), mount.source.absolute()
        if os.path.lexists(target):
            if str(target) in self._users and target.is_symlink() and Path(os.readlink(target)) == source:
                self._make_parents(id, target, mount)
                self._record(id, target)
                return
            raise FailedPrecondition(
                f"{target} exists on this machine already, and the process runtime cannot mount {source} over it. "
                'Choose another mount path in the app, or run Stoker as root with runtime = "runsc".'
            )
        self._make_parents(id, target, mount)
        self._record(id, target)
        try:
            target.symlink_to(source)
        except OSError as error:
            raise _impossible(target, error) from error

    def _make_parents(self, id: str, target: Path, mount: BindMount) -> None:
        for parent in reversed(target.parents):
            if str(parent) in self._users:
                self._record(id, parent)
            elif not parent.exists():
                self._record(id, parent)
                try:
                    parent.mkdir()
                except OSError as error:
                    raise _impossible(Path(mount.target), error) from error

    def _record(self, id: str, path: Path) -> None:
        if str(path) not in self._users:
            self._users[str(path)] = set()
            self._created.append(str(path))
            self._save()
        self._users[str(path)].add(id)

    def _remove_unused(self) -> None:
        unused = [path for path in reversed(self._created) if not self._users.get(path)]
        for path in unused:
            with contextlib.suppress(OSError):
                if os.path.islink(path):
                    os.unlink(path)
                elif os.path.isdir(path):
                    os.rmdir(path)  # only when empty: it may hold someone's files by now
                elif os.path.getsize(path) == 0:
                    os.unlink(path)
            self._users.pop(path, None)
        if unused:
            self._created = [path for path in self._created if path not in set(unused)]
            self._save()

    def _save(self) -> None:
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        partial = self._journal.with_suffix(".partial")
        partial.write_text(json.dumps(self._created))
        partial.replace(self._journal)


def _impossible(target: Path, error: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"The process runtime cannot make {target} on this machine ({error.strerror}). Choose a mount path below a directory that you "
        'may write, /tmp for example, or run Stoker as root on Linux with runtime = "runsc".'
    )
