"""Whole files, read past the page cache."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

import pytest

from stoker.integrity import reading
from stoker.integrity.reading import Pace


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 4 << 20, (4 << 20) + 1, 9_000_000])
@pytest.mark.parametrize("direct", [False, True])
def test_all_bytes_are_read(tmp_path: Path, size: int, direct: bool) -> None:
    path, data = tmp_path / "file", os.urandom(size)
    path.write_bytes(data)
    pace = Pace(direct=direct)
    assert reading.sha256(path, pace) == hashlib.sha256(data).hexdigest() and pace.read == size


@pytest.mark.parametrize("size", [1, 4096, 5000, 4 << 20])
def test_a_small_file_gets_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The kernel readies all of it for a direct read, which took five times as long as to read the files of an image."""
    path, real, offered = tmp_path / "file", os.readv, []
    path.write_bytes(os.urandom(size))

    def readv(file: int, buffers: list[memoryview]) -> int:
        offered.append(sum(map(len, buffers)))
        return real(file, buffers)

    monkeypatch.setattr(os, "readv", readv)
    reading.sha256(path, Pace(direct=True))
    assert offered and max(offered) <= min(size + mmap.PAGESIZE, 4 << 20)


def test_a_file_system_that_reads_nothing_directly_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some say so with the first read only."""
    path, data, real = tmp_path / "file", os.urandom(9_000_000), os.readv
    path.write_bytes(data)

    def readv(file: int, buffers: list[memoryview]) -> int:
        if os.O_DIRECT & reading.fcntl.fcntl(file, reading.fcntl.F_GETFL):
            raise OSError(22, "Invalid argument")
        return real(file, buffers)

    monkeypatch.setattr(os, "readv", readv)
    assert reading.sha256(path, Pace(direct=True)) == hashlib.sha256(data).hexdigest()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        reading.sha256(tmp_path / "link", Pace())
