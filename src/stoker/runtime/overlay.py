"""The root file system of one container: its image's layers below a private writable layer, as one overlay mount."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.runtime import linux

MAX_LAYERS = 500
"""The kernel's own limit for one overlay."""

_TMP_NOTE = ".stoker-keeps-this-on-the-disk"
_ATTEMPTS, _PAUSE = 20, 0.01  # seconds


class Overlay:
    """An overlay mount at `directory`/rootfs. `directory` must not exist yet and is removed again by `remove`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "rootfs"
        self.upper = directory / "upper"

    def mount(self, layers: Sequence[Path], files: Mapping[str, str]) -> None:
        """Mounts `layers` (uppermost first) with `files` (path relative to "/" -> text) already in the writable layer.

        Raises InvalidArgument when a layer is missing, FailedPrecondition when this machine cannot do it."""
        layers = tuple(dict.fromkeys(layers))  # the kernel refuses the same directory twice
        if not layers:
            raise InvalidArgument("A container needs at least one layer to start from.")
        if len(layers) > MAX_LAYERS:
            raise InvalidArgument(
                f"The image has {len(layers)} layers, and the kernel mounts at most {MAX_LAYERS} at once."
            )
        for layer in layers:
            if not layer.is_dir():
                raise InvalidArgument(f"The layer {layer} of the image does not exist; build the image again.")
        links = self.directory / "layers"
        for directory in (self.upper, self.root, self.directory / "work", links):
            directory.mkdir(parents=True)
        # The writable layer's own mode is that of "/".
        self.upper.chmod(0o755)
        for name, text in files.items():
            path = self.upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for index, layer in enumerate(layers):
            (links / str(index)).symlink_to(layer)
        _in_directory(links, lambda: self._mount(len(layers)))
        _keep_tmp(self.root)

    def remove(self) -> None:
        """Unmounts and deletes everything. Safe to call for a directory in any state."""
        discard(self.directory)

    def _mount(self, count: int) -> None:
        # Short names relative to the working directory: hundreds of layers fit into the one page that mount(2) takes, and
        # colons and commas in the layers' real paths need no escaping.
        options = f"lowerdir={':'.join(map(str, range(count)))},upperdir=../upper,workdir=../work"
        try:
            # "volatile": nobody will read the writable layer after a power cut, so no sync when it is unmounted.
            linux.mount("overlay", "../rootfs", "overlay", options=options + ",volatile")
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise self._explained(error) from error
        try:
            linux.mount("overlay", "../rootfs", "overlay", options=options)
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> FailedPrecondition:
        kind = linux.filesystem_of(self.directory)
        hint = (
            f" (on {kind}, which cannot hold a writable layer; choose another data directory)"
            if kind == "overlay"
            else ""
        )
        return FailedPrecondition(
            f"The container's file system could not be mounted at {self.root}{hint}: {error.strerror}. "
            f"Kernel {linux.kernel()} must have overlayfs, and the data directory must be on a local file system such as ext4 or xfs."
        )


def keep(directory: Path, target: Path | None) -> None:
    """Makes of the writable layer of the overlay at `directory` the new directory `target`, when there is one."""
    if target is None or not (directory / "upper").is_dir():
        return
    for mounted in linux.mounts_below(directory):
        linux.unmount(mounted, linux.MNT_DETACH)
    target.parent.mkdir(parents=True, exist_ok=True)
    (directory / "upper").rename(target)


def discard(directory: Path) -> None:
    """Unmounts everything below `directory` and deletes it."""
    for target in linux.mounts_below(directory):
        try:
            linux.unmount(target)
        except OSError as error:
            if error.errno == errno.EBUSY:
                linux.unmount(target, linux.MNT_DETACH)
            elif error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
    _remove(directory)


def _keep_tmp(root: Path) -> None:
    """gVisor puts a tmpfs, which is memory, over a /tmp that is empty or missing. So it is neither."""
    above = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir("tmp", dir_fd=above)
            os.chmod("tmp", 0o1777, dir_fd=above)
        # What the image has there may be a link to anywhere, which is its own business.
        with contextlib.suppress(NotADirectoryError), _opened("tmp", above) as tmp:
            if not os.listdir(tmp):
                os.close(os.open(_TMP_NOTE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=tmp))
    finally:
        os.close(above)


@contextlib.contextmanager
def _opened(name: str, above: int) -> Iterator[int]:
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        yield directory
    finally:
        os.close(directory)


def _remove(directory: Path) -> None:
    """Deletes it, also while a last runsc command for the container still adds or removes a file in there."""
    for attempt in range(_ATTEMPTS):
        try:
            shutil.rmtree(directory)
            return
        except OSError as error:
            if not os.path.lexists(directory):
                return
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or attempt == _ATTEMPTS - 1:
                raise
        time.sleep(_PAUSE)


def _in_directory(directory: Path, action: Callable[[], None]) -> None:
    """Runs `action` in a thread with a working directory of its own; the process keeps its own one."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            linux.unshare(linux.CLONE_FS)
            os.chdir(directory)
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="overlay-mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
