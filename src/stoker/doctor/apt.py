"""Packages from the machine's own Debian (or Ubuntu) sources, and single files out of packages of another suite.

No address of a package archive is written here: the machine's own sources say where its archive is, which keeps mirrors and
offline copies working.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.doctor.check import Report
from stoker.doctor.command import run
from stoker.errors import FailedPrecondition, PermissionDenied

_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "APT_LISTCHANGES_FRONTEND": "none", "LC_ALL": "C.UTF-8"}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def available() -> bool:
    """Whether this machine has apt at all."""
    return shutil.which("apt-get") is not None


def install(packages: Sequence[str], report: Report) -> None:
    """Refreshes the lists once and installs. Raises PermissionDenied without root, FailedPrecondition when apt fails."""
    _require_apt(f"Install these with your system's package manager: {' '.join(packages)}.")
    if os.geteuid() != 0:
        raise PermissionDenied("Installing packages needs root: run `sudo stoker doctor --fix`.")
    run(["apt-get", "-q", "update"], report, _QUIET)
    # What a package only recommends stays away: a server needs no second container engine.
    run(["apt-get", "-q", "-y", "--no-install-recommends", "install", *packages], report, _QUIET)


@dataclass(frozen=True)
class Archive:
    """The Debian archive that the machine's own sources name."""

    uri: str
    codename: str

    @staticmethod
    def of_host() -> Archive:
        """Raises FailedPrecondition when the machine's sources name no Debian archive."""
        _require_apt("Set runsc_path to a runsc that you installed by other means.")
        listing = subprocess.run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(REPO_URI)",
                "Created-By: Packages",
            ],
            capture_output=True,
            text=True,
            env={**os.environ, **_QUIET},
        )
        for line in listing.stdout.splitlines():
            origin, label, codename, uri = line.split("|", 3)
            if (origin, label) == ("Debian", "Debian") and "-" not in codename and not uri.startswith("cdrom:"):
                return Archive(uri, codename)
        raise FailedPrecondition(
            "apt knows no Debian archive on this machine (after `apt-get update`). Set runsc_path to a runsc that you installed by "
            "other means."
        )


def unpack(archive: Archive, suite: str, package: str, target: Path, report: Report) -> None:
    """Downloads one package of another suite, its signature checked by apt, and unpacks it into `target`.

    Works on configuration, lists and cache of its own: the machine's sources and package database stay as they are. Raises
    FailedPrecondition when the suite or the package is not there or not properly signed.
    """
    if not _KEYRING.is_file():
        raise FailedPrecondition(f"{_KEYRING} is missing: install the package debian-archive-keyring first.")
    with tempfile.TemporaryDirectory(prefix="stoker-apt-") as name:
        scratch = Path(name)
        for part in ("lists/partial", "cache/archives/partial", "parts", "preferences", "download"):
            (scratch / part).mkdir(parents=True)
        sources = scratch / "sources.list"
        sources.write_text(f"deb [signed-by={_KEYRING}] {archive.uri} {suite} main\n")
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": scratch / "parts",
            "Dir::Etc::Preferences": scratch / "preferences/none",
            "Dir::Etc::PreferencesParts": scratch / "preferences",
            "Dir::State::Lists": scratch / "lists",
            "Dir::Cache": scratch / "cache",
            "APT::Sandbox::User": "root",  # the unprivileged user could not write below a private directory
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "APT::Update::Error-Mode": "any",
        }
        apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
        download = scratch / "download"
        run([*apt, "update"], report, _QUIET)
        run([*apt, "download", package], report, _QUIET, cwd=download)
        for file in download.glob("*.deb"):
            run(["dpkg-deb", "--extract", str(file), str(target)], report)


def _require_apt(instead: str) -> None:
    if not available():
        raise FailedPrecondition(f"This machine has no apt. {instead}")
