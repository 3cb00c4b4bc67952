"""Settings of the kernel for the time of a server. On files in place of the kernel's own, which concern all of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.runtime import kernel
from stoker.runtime.kernel import KernelSettings


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernel, "_PAGES", tmp_path / "pages")
    monkeypatch.setattr(kernel, "_EXPEDITED", tmp_path / "expedited")
    for name in ("pages", "pages/hugepages-64kB", "pages/hugepages-256kB"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shmem_enabled").write_text("always within_size advise [never] deny force\n")
    (tmp_path / "expedited").write_text("0\n")
    return tmp_path


def values(files: Path) -> list[str]:
    places = (
        "pages/shmem_enabled",
        "pages/hugepages-64kB/shmem_enabled",
        "pages/hugepages-256kB/shmem_enabled",
        "expedited",
    )
    return [(files / place).read_text().strip() for place in places]


def begin(files: Path) -> KernelSettings:
    settings = KernelSettings(files / "notes")
    settings.open()
    settings.offer_large_pages()
    settings.hurry()
    return settings


def test_they_are_changed_and_put_back(files: Path) -> None:
    settings = begin(files)
    assert values(files) == ["advise", "always", "always", "1"]
    settings.close()
    assert values(files) == ["never", "never", "never", "0"]
    settings.close()


def test_the_last_of_several_servers_puts_them_back(files: Path) -> None:
    first, second = begin(files), begin(files)
    first.close()
    assert values(files) == ["advise", "always", "always", "1"]
    second.close()
    assert values(files) == ["never", "never", "never", "0"]


def test_what_a_killed_server_left_is_put_back_by_the_next(files: Path) -> None:
    killed = begin(files)
    assert killed._lock is not None
    killed._lock.close()  # as the end of its process does
    begin(files).close()
    assert values(files) == ["never", "never", "never", "0"]


def test_what_somebody_has_chosen_stays(files: Path) -> None:
    (files / "pages/shmem_enabled").write_text("always within_size advise never [deny] force\n")
    (files / "expedited").write_text("1\n")
    settings = begin(files)
    assert "[deny]" in values(files)[0]
    assert values(files)[1:] == ["always", "always", "1"]
    settings.close()
    assert "[deny]" in values(files)[0]
    assert values(files)[1:] == ["never", "never", "1"]


def test_a_machine_without_them_is_no_error(files: Path) -> None:
    for place in ("pages/shmem_enabled", "pages/hugepages-64kB/shmem_enabled", "expedited"):
        (files / place).unlink()
    settings = begin(files)
    settings.close()
    KernelSettings(files / "expedited-not" / "there").open()
