"""Runs a program of the system and shows what it says while it works."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from stoker.doctor.check import Report
from stoker.errors import FailedPrecondition


def run(command: Sequence[str], report: Report, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Raises FailedPrecondition with the end of the output when the program is missing or fails."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    except FileNotFoundError:
        raise FailedPrecondition(f"The program `{command[0]}` is not on this machine.") from None
    lines: list[str] = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            report(lines[-1])
    if process.returncode:
        tail = "\n".join(lines[-8:])
        raise FailedPrecondition(f"`{' '.join(command[:4])} ...` ended with exit code {process.returncode}:\n{tail}")
