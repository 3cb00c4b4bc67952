"""The doctor on this machine, and on one that lacks things."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from stoker.config import Settings
from stoker.doctor import apt, machine, sandbox
from stoker.doctor.check import Check, failed, ok
from stoker.doctor.examination import Result, checks_for, fix
from stoker.errors import FailedPrecondition

from .conftest import Stoker

needs_apt = pytest.mark.skipif(not apt.available() or os.geteuid() != 0, reason="installing needs apt and root")


def test_every_check_says_why(stoker: Stoker) -> None:
    document = stoker.json("doctor", "--runtime", "process")
    assert document["ok"] is True
    assert {"python", "data", "disk"} <= {check["name"] for check in document["checks"]}
    assert all(check["why"] and check["detail"] for check in document["checks"])


def test_what_is_missing_is_named_with_the_way_to_get_it(stoker: Stoker) -> None:
    empty = stoker.cwd / "empty"
    empty.mkdir()
    result = stoker("doctor", code=1, PATH=str(empty))
    missing = next(line for line in result.stdout.splitlines() if "`buildah` is not on this machine" in line)
    assert missing.startswith("✗ buildah")
    assert "--fix installs the package `buildah`" in result.stdout
    assert "sudo stoker doctor --fix" in result.stdout


def test_a_full_disk_is_found(stoker: Stoker) -> None:
    checks = stoker.json("doctor", "--runtime", "process", code=0)["checks"]
    assert next(check for check in checks if check["name"] == "disk")["state"] in ("ok", "warning")
    free_mib = shutil.disk_usage(stoker.cwd).free >> 20
    result = stoker("doctor", "--runtime", "process", code=1, STOKER_MIN_FREE_DISK_MIB=str(free_mib * 2))
    assert "min_free_disk_mib" in result.stdout


@pytest.mark.parametrize(
    ("flags", "state"), [("fpu avx512f amx_bf16 amx_tile amx_int8", "warning"), ("fpu avx512f", "ok")]
)
def test_a_processor_with_amx_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, state: str
) -> None:
    processors = tmp_path / "cpuinfo"
    processors.write_text(f"processor\t: 0\nmodel name\t: X\nflags\t\t: {flags}\nbugs\t\t:\n\nprocessor\t: 1\n")
    monkeypatch.setattr(machine, "_PROCESSORS", processors)
    settings = Settings(data=tmp_path)
    finding = machine.AMX.look(settings)
    assert finding.state.value == state and bool(finding.advice) == (state == "warning")
    assert machine.AMX in checks_for(settings)


def test_a_runsc_that_is_none_is_refused(stoker: Stoker) -> None:
    fake = stoker.cwd / "runsc"
    fake.write_text("#!/bin/sh\necho runsc version 1.0\n")
    fake.chmod(0o755)
    checks = json.loads(stoker("doctor", "--json", code=1, STOKER_RUNSC_PATH=str(fake)).stdout)["checks"]
    (runsc,) = (check for check in checks if check["name"] == "runsc")
    assert runsc["state"] == "failed" and str(fake) in runsc["detail"]


def test_a_repair_that_fails_is_told_and_the_others_still_happen() -> None:
    repaired: list[str] = []

    def refuse(settings: Settings, report: object) -> None:
        raise FailedPrecondition("no room")

    checks = [
        Check("one", "why", lambda settings: ok(""), repair=refuse),
        Check("two", "why", lambda settings: ok(""), repair=lambda settings, report: repaired.append("two")),
        Check("three", "why", lambda settings: ok(""), repair=lambda settings, report: repaired.append("three")),
    ]
    findings = [failed("gone", ""), failed("gone", ""), ok("there")]
    faults = fix(Settings.load(), [Result(*pair) for pair in zip(checks, findings, strict=True)], repaired.append)
    assert faults == ["no room"]
    assert repaired == ["two"]


@needs_apt
def test_apt_says_which_package_it_does_not_have() -> None:
    with pytest.raises(FailedPrecondition, match="stoker-has-no-such-package"):
        apt.install(["stoker-has-no-such-package"], lambda line: None)


@needs_apt
def test_runsc_comes_signed_from_the_machines_own_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real download, into another directory, with the machine's own package lists left as they are."""
    monkeypatch.setattr(sandbox, "PRIVATE_BIN", tmp_path / "bin")
    before = sorted(Path("/var/lib/apt/lists").iterdir())
    sandbox.install_runsc(Settings.load(), lambda line: None)
    assert sandbox.known_good(tmp_path / "bin" / "runsc") is None
    assert sorted(Path("/var/lib/apt/lists").iterdir()) == before


@needs_apt
def test_an_archive_without_a_valid_signature_is_refused(tmp_path: Path) -> None:
    """A complete little archive on this disk, but signed by nobody."""
    release = tmp_path / "dists" / "bookworm-backports"
    (release / "main" / "binary-amd64").mkdir(parents=True)
    (release / "main" / "binary-amd64" / "Packages").write_text("Package: runsc\nVersion: 1\nArchitecture: all\n")
    (release / "Release").write_text("Origin: Debian\nCodename: bookworm-backports\nComponents: main\n")
    tmp_path.chmod(0o755)
    lines: list[str] = []
    with pytest.raises(FailedPrecondition):
        apt.unpack(
            apt.Archive(f"file:{tmp_path}/", "bookworm"), "bookworm-backports", "runsc", tmp_path / "out", lines.append
        )
    assert any("is not signed" in line for line in lines), lines
    assert not (tmp_path / "out").exists()
