"""The program of sandboxes: gVisor's runsc, of a build that is known to work."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from stoker.config import Settings
from stoker.doctor.apt import Archive, unpack
from stoker.doctor.check import Check, Finding, Report, failed, ok
from stoker.errors import FailedPrecondition, PermissionDenied, StokerError
from stoker.runtime.runsc_binary import PRIVATE_BIN, find_runsc, known_good

# Suites whose runsc is sound, by the suite the machine itself has; the program is static, so any of them runs anywhere.
_SUITES = {"bookworm": ("bookworm-backports", "trixie"), "trixie": ("trixie", "bookworm-backports")}
_OTHER_SUITES = ("trixie", "bookworm-backports")


def _runsc(settings: Settings) -> Finding:
    try:
        return ok(str(find_runsc(settings.runsc_path)))
    except StokerError as error:
        return failed(_first_sentence(error), "--fix fetches a sound build from Debian; or set runsc_path.")


def install_runsc(settings: Settings, report: Report) -> None:
    """Puts a sound runsc into the private directory; the system's own package, if any, stays as it is.

    Raises PermissionDenied without root, FailedPrecondition when no suite has a sound build.
    """
    if settings.runsc_path:
        raise FailedPrecondition(
            f"The setting runsc_path names {settings.runsc_path}: correct it, or remove it and run `stoker doctor --fix` again."
        )
    if os.geteuid() != 0:
        raise PermissionDenied(f"Writing to {PRIVATE_BIN} needs root: run `sudo stoker doctor --fix`.")
    archive = Archive.of_host()
    reasons = []
    for suite in _SUITES.get(archive.codename, _OTHER_SUITES):
        with tempfile.TemporaryDirectory(prefix="stoker-runsc-") as name:
            tree = Path(name)
            tree.chmod(0o755)
            try:
                unpack(archive, suite, "runsc", tree, report)
            except FailedPrecondition as error:
                reasons.append(f"{suite}: {error}")
                continue
            binary = tree / "usr/bin/runsc"
            why = known_good(binary)
            if why is None:
                _place(binary, PRIVATE_BIN / "runsc")
                report(f"runsc of {suite} is now at {PRIVATE_BIN / 'runsc'}")
                return
            reasons.append(f"{suite}: {why}")
    raise FailedPrecondition("No sound runsc was found. " + "; ".join(reasons))


def _place(source: Path, target: Path) -> None:
    """Replaces the target in one step: a server may be using the old one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, temporary)
    temporary.chmod(0o755)
    temporary.replace(target)


def _first_sentence(error: StokerError) -> str:
    return str(error).split(" Run `stoker doctor", 1)[0]


RUNSC = Check(
    "runsc", "gVisor runs each container in a kernel of its own, away from the host's.", _runsc, repair=install_runsc
)
