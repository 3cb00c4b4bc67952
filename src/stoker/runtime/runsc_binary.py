"""Which `runsc` is used: one that is known to work."""

from __future__ import annotations

import mmap
import os
import platform
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from stoker.errors import FailedPrecondition

PRIVATE_BIN = Path("/usr/local/lib/stoker/bin")
"""Where `stoker doctor --fix` puts its own copies, so that the system's packages are left alone."""

OLDEST_RELEASE = 20240729
_FIRST_RELEASE_FOR_NEW_GO = 20250101
_FIRST_BROKEN_GO = (1, 25)
_BUILD_INFO_MAGIC = b"\xff Go buildinf:"


def find_runsc(setting: str = "") -> Path:
    """The configured binary, else our private copy, else the one on PATH. Raises FailedPrecondition when there is none that is fit."""
    if setting:
        path = Path(setting)
        why = known_good(path)
        if why is not None:
            raise FailedPrecondition(f"The configured runsc_path cannot be used: {why}")
        return path
    reasons = []
    for path in _candidates("runsc"):
        why = known_good(path)
        if why is None:
            return path
        reasons.append(why)
    found = "; ".join(reasons) or f"it is neither in {PRIVATE_BIN} nor on PATH"
    raise FailedPrecondition(
        f'No usable runsc (gVisor) on this machine: {found}. Run `stoker doctor --fix`, or set runtime = "process" to run '
        "without sandboxes."
    )


def known_good(path: Path) -> str | None:
    """Why this runsc must not be used, or None when it may be."""
    try:
        stat = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return _judge(path, stat.st_mtime_ns, stat.st_size)


def go_version(path: Path) -> tuple[int, ...] | None:
    """The Go release a binary was built with, as (1, 22, 5); None when it does not say."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        start = image.find(_BUILD_INFO_MAGIC)
        if start < 0:
            return None
        match = re.search(rb"go(\d+)\.(\d+)(?:\.(\d+))?", image[start : start + 128])
    return tuple(int(part) for part in match.groups() if part) if match else None


@lru_cache(maxsize=16)
def _judge(path: Path, mtime_ns: int, size: int) -> str | None:
    del mtime_ns, size  # part of the key only: a replaced binary is judged again
    if not os.access(path, os.X_OK):
        return f"{path} is not executable"
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} does not run on this machine ({platform.machine()}): {error}"
    match = re.search(r"(20\d{6})", text)
    if match is None:
        return f"{path} does not tell its release (`runsc --version` printed {text.strip()!r})"
    release = int(match.group(1))
    if release < OLDEST_RELEASE:
        return f"{path} is release {release}, and Stoker needs {OLDEST_RELEASE} or newer"
    go = go_version(path)
    if go is not None and go[:2] >= _FIRST_BROKEN_GO and release < _FIRST_RELEASE_FOR_NEW_GO:
        # Its assembly reads the goroutine id at an offset that Go has moved since: the sentry panics at random.
        return (
            f"{path} is release {release} built with Go {'.'.join(map(str, go))}, which crashes at random "
            "(the builds of Debian bookworm-backports and trixie are sound)"
        )
    return None


def _candidates(name: str) -> list[Path]:
    on_path = shutil.which(name)
    paths = [PRIVATE_BIN / name] + ([Path(on_path)] if on_path else [])
    return [path for path in paths if path.is_file()]
