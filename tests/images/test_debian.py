from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from stoker.errors import ImageBuildFailed
from stoker.images import debian
from stoker.images.debian import DebianBase, debian_base


@pytest.mark.parametrize(
    ("name", "suite", "python", "full"),
    [
        ("python:3.11-slim-bookworm", "bookworm", "3.11", False),
        ("python:3.13-slim", "trixie", "3.13", False),
        ("docker.io/library/python:3.14-slim-trixie", "forky", "3.14", False),
        ("python:3.13", "trixie", "3.13", True),
        ("python:3.13.3-slim-bookworm", "trixie", "3.13", False),
        ("python", "trixie", "3.13", True),
        ("python:slim", "trixie", "3.13", False),
        ("debian:bookworm-slim", "bookworm", "", False),
        ("debian:12.5", "bookworm", "", False),
        ("debian:trixie-20260101-slim", "trixie", "", False),
        ("debian", "trixie", "", False),
    ],
)
def test_names_that_debian_can_supply(name: str, suite: str, python: str, full: bool) -> None:
    base = debian_base(name)
    assert base is not None
    assert (base.suite, base.python, base.full) == (suite, python, full)


def test_a_deviation_is_named() -> None:
    base = debian_base("python:3.11.12-slim-trixie")
    assert base == DebianBase("bookworm", "3.11", False, base.note if base else "")
    assert "bookworm instead of trixie" in base.note
    assert "3.11.12" in base.note
    exact = debian_base("python:3.13-slim-trixie")
    assert exact is not None
    assert exact.note == ""


@pytest.mark.parametrize(
    "name", ["python:3.11-alpine", "ubuntu:22.04", "nvidia/cuda:12.4.0-base", "debian:buster", "me/python:3.11"]
)
def test_names_that_it_cannot(name: str) -> None:
    assert debian_base(name) is None


def test_a_python_that_no_release_has() -> None:
    with pytest.raises(ImageBuildFailed, match=r"no Python 3\.12.*3\.9, 3\.11, 3\.13, 3\.14.*registry_mirrors"):
        debian_base("python:3.12-slim-trixie")


def test_an_old_base_is_made_anew_and_kept_when_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = debian_base("debian:bookworm-slim")
    assert base is not None
    made: list[Path] = []

    async def make(_base: object, layout: Path, *_rest: object) -> None:
        if len(made) == 2:
            raise ImageBuildFailed("the archive is not reached")
        layout.mkdir(parents=True, exist_ok=True)
        os.utime(layout)
        made.append(layout)

    monkeypatch.setattr(debian, "_make", make)
    said: list[str] = []

    def bring() -> Path:
        return asyncio.run(debian.bootstrap(base, tmp_path, said.append, max_age=1000.0))

    def grow_old(layout: Path) -> None:
        os.utime(layout, (time.time() - 2000, time.time() - 2000))

    layout = bring()
    assert bring() == layout and len(made) == 1
    grow_old(layout)
    assert bring() == layout and len(made) == 2
    grow_old(layout)
    assert bring() == layout and "the archive is not reached" in "".join(said)
    said.clear()
    assert bring() == layout and said == [], "not tried again with every build"
