"""The first process of every sandbox: a static program of our own for any image; init.c says what it does, and `make init` builds it."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from stoker.errors import FailedPrecondition

INSIDE = "/__modal/.bin/init"
"""Where it lies in a sandbox. Its arguments are the program to run and that program's own."""

SOURCE = Path(__file__).with_name("init.c")
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def binary(machine: str = "") -> Path:
    """The program for a machine, by default this one. Raises FailedPrecondition when there is none."""
    name = machine or platform.machine()
    if name not in MACHINES:
        raise FailedPrecondition(
            f"Sandboxes cannot run on {name}: the first process of a container exists for x86_64 and aarch64."
        )
    return SOURCE.with_name(f"init.{MACHINES[name]}")


def digest() -> str:
    """Of the program for this machine. Snapshots hold a running copy of it."""
    return hashlib.sha256(binary().read_bytes()).hexdigest()


def place(target: Path) -> Path:
    """Puts a copy for this machine there, for sandboxes to run: an upgrade of Stoker must not change what they have mapped."""
    target.write_bytes(binary().read_bytes())
    target.chmod(0o755)
    return target
