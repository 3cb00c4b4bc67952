"""Directories held by themselves and not by their names: between the moment a directory of a volume is chosen and the moment a sandbox has
it, a container that writes to the volume could put a link to the host's files in its place.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from stoker.errors import FailedPrecondition
from stoker.runtime import linux


class Pins:
    """Each is a mount at `directory`/<owner>/<number>, which is there for the sandbox to mount. Nothing here ever deletes recursively."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def pin(self, owner: str, source: Path, root: Path) -> Path:
        """Where `source`, a directory below `root`, is held from now on. Raises FailedPrecondition when the way there leads over a link."""
        place = self._directory / owner
        place.mkdir(parents=True, exist_ok=True)
        target = place / str(len(list(place.iterdir())))
        descriptor = _open_below(root, source)
        try:
            target.mkdir()
            linux.mount(f"/proc/self/fd/{descriptor}", str(target), flags=linux.MS_BIND)
        finally:
            os.close(descriptor)
        return target

    def release(self, owner: str) -> None:
        """Lets go of all that is held for `owner`."""
        place = self._directory / owner
        for mounted in linux.mounts_below(place):
            linux.unmount(mounted, linux.MNT_DETACH)
        with contextlib.suppress(FileNotFoundError):
            for target in place.iterdir():
                target.rmdir()  # refuses what is still mounted
            place.rmdir()

    def sweep(self) -> None:
        """Lets go of all that an earlier server held."""
        if self._directory.is_dir():
            for place in list(self._directory.iterdir()):
                self.release(place.name)


def _open_below(root: Path, path: Path) -> int:
    """A descriptor of the directory `path`, reached from `root` without following a link."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(root, flags)
    for part in path.relative_to(root).parts:
        above = descriptor
        try:
            descriptor = os.open(part, flags, dir_fd=above)
        except OSError as error:
            raise FailedPrecondition(
                f"{path.relative_to(root)} in a volume is no directory any more ({error.strerror}), so it cannot be mounted."
            ) from error
        finally:
            os.close(above)
    return descriptor
