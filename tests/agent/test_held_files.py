"""Whether the files of Volumes that a saved container had open are still the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.agent import held_files
from stoker.runtime.inspection import OpenFile


def held(path: str, **what: Any) -> OpenFile:
    flags = dict.fromkeys(("deleted", "replaced", "writable", "mapped", "directory"), False)
    return OpenFile(path, "python", **flags | what)


class Volume:
    def __init__(self, path: Path) -> None:
        self.root, self.snapshot = path / "volume", path / "snapshot"
        (self.root / "sub").mkdir(parents=True)
        self.snapshot.mkdir()
        self.file = self.root / "sub" / "w"
        self.file.write_bytes(b"7" * 100)
        self.places = {"/vol": self.root, "/__modal/volumes/vo-1": self.root}

    def note(self, *files: OpenFile) -> None:
        held_files.write(self.snapshot, held_files.note(files, self.places))

    def changed(self) -> str:
        return held_files.changed(self.snapshot, self.places)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def by_rename(volume: Volume) -> None:
    new = volume.root / "new"
    new.write_bytes(b"9" * 100)
    status = volume.file.stat()
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.rename(volume.file)


def in_place(volume: Volume) -> None:
    status = volume.file.stat()
    volume.file.write_bytes(b"9" * 100)
    os.utime(volume.file, ns=(status.st_atime_ns, status.st_mtime_ns))


def shorter(volume: Volume) -> None:
    os.truncate(volume.file, 10)


def longer(volume: Volume) -> None:
    with volume.file.open("ab") as file:
        file.write(b"more")


def gone(volume: Volume) -> None:
    volume.file.unlink()


def by_a_link(volume: Volume) -> None:
    volume.file.rename(volume.root / "moved")
    volume.file.symlink_to("../moved")


def directory_by_a_link(volume: Volume) -> None:
    (volume.root / "sub").rename(volume.root / "other")
    (volume.root / "sub").symlink_to("other")


def nothing(volume: Volume) -> None:
    volume.file.read_bytes()
    (volume.root / "sub" / "beside").write_text("x")


@pytest.mark.parametrize("change", [by_rename, in_place, shorter, longer, gone, by_a_link, directory_by_a_link])
@pytest.mark.parametrize("path", ["/vol/sub/w", "/__modal/volumes/vo-1/sub/w"])
def test_what_was_only_read_must_be_the_same(volume: Volume, path: str, change: Callable[[Volume], None]) -> None:
    volume.note(held(path, mapped=True))
    nothing(volume)
    assert volume.changed() == ""
    change(volume)
    assert path in volume.changed()


@pytest.mark.parametrize(
    ("change", "same"), [(longer, True), (in_place, True), (shorter, False), (by_rename, False), (gone, False)]
)
def test_what_the_container_writes_itself_may_become_longer(
    volume: Volume, change: Callable[[Volume], None], same: bool
) -> None:
    volume.note(held("/vol/sub/w"), held("/vol/sub/w", writable=True))
    change(volume)
    assert (volume.changed() == "") is same


def test_of_a_directory_only_the_place_matters(volume: Volume) -> None:
    volume.note(held("/vol/sub", directory=True), held("/vol", directory=True))
    nothing(volume)
    assert volume.changed() == ""
    (volume.root / "sub").rename(volume.root / "other")
    (volume.root / "sub").mkdir()
    assert "/vol/sub" in volume.changed()


@pytest.mark.parametrize(
    "path", ["/vol/link", "/vol/link/x", "/vol/../etc/passwd", "/etc/passwd", "/vol/\0", "/volume"]
)
def test_a_container_cannot_point_elsewhere(volume: Volume, path: str) -> None:
    (volume.root / "link").symlink_to("/etc")
    files = [f for f in (held(path),) if f.is_below(["/vol"])]
    notes = held_files.note(files, volume.places)
    assert not notes or notes[0]["inode"] == (volume.root / "link").lstat().st_ino


def test_without_open_files_nothing_is_kept(volume: Volume) -> None:
    volume.note()
    assert list(volume.snapshot.iterdir()) == [] and volume.changed() == ""
