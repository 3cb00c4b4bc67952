"""Which runsc is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.errors import FailedPrecondition
from stoker.runtime.runsc_binary import find_runsc, go_version, known_good


def program(path: Path, text: str, extra: bytes = b"") -> Path:
    path.write_bytes(f"#!/bin/sh\necho '{text}'\nexit 0\n".encode() + extra)
    path.chmod(0o755)
    return path


def test_old_release_is_refused(tmp_path: Path) -> None:
    why = known_good(program(tmp_path / "runsc", "runsc version release-20221219.0"))
    assert why is not None and "20221219" in why and "20240729" in why


@pytest.mark.parametrize(("go", "good"), [(b"go1.22.5", True), (b"go1.24.1", True), (b"go1.26.2", False), (b"", True)])
def test_release_built_with_a_go_it_does_not_know_is_refused(tmp_path: Path, go: bytes, good: bool) -> None:
    info = b"\xff Go buildinf:" + bytes(18) + bytes([len(go)]) + go if go else b""
    why = known_good(program(tmp_path / "runsc", "runsc version 0.0~20240729.0", info))
    assert (why is None) is good, why


def test_newer_release_is_trusted_with_any_go(tmp_path: Path) -> None:
    info = b"\xff Go buildinf:" + bytes(18) + b"\x08go1.26.2"
    assert known_good(program(tmp_path / "runsc", "runsc version release-20260105.0", info)) is None


def test_what_is_no_runsc_is_refused(tmp_path: Path) -> None:
    assert "No such file" in str(known_good(tmp_path / "none"))
    assert "release" in str(known_good(program(tmp_path / "other", "hello")))
    with pytest.raises(FailedPrecondition, match="runsc_path"):
        find_runsc(str(tmp_path / "none"))


def test_the_installed_one_is_found() -> None:
    try:
        runsc = find_runsc()
    except FailedPrecondition:
        pytest.skip("runsc is not installed")
    assert go_version(runsc) is not None
