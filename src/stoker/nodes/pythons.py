"""The standalone Pythons that the client names for `add_python=`."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

_NAME = re.compile(
    r"^python-build-standalone\.(?P<release>\d{8})\.(?P<version>\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)(?P<free>t?)-(?P<libc>gnu|musl)$"
)


@dataclass(frozen=True)
class StandalonePython:
    """`release` is a date as in 20261021, `libc` is gnu or musl."""

    release: str
    version: str
    libc: str
    free_threaded: bool = False

    @property
    def request(self) -> str:
        """How uv calls it."""
        variant = "+freethreaded" if self.free_threaded else ""
        return f"cpython-{self.version}{variant}-linux-{platform.machine()}-{self.libc}"

    @property
    def key(self) -> str:
        """The name of its directory."""
        return f"{self.request}-{self.release}"


def named(mount: str) -> StandalonePython | None:
    """What a mount of this name stands for (`python-build-standalone.20261021.3.11.17-gnu`); None when it is another mount."""
    match = _NAME.match(mount)
    if match is None:
        return None
    return StandalonePython(match["release"], match["version"], match["libc"], bool(match["free"]))
