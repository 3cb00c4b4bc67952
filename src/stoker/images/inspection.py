"""What is inside a built image: its settings, its Python, and the packages installed for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.images.rootfs import run_inside

QUESTION = r"""
import json, os, platform, sys
try:
    from importlib import metadata
    packages = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
except Exception:
    packages = {}
libc, version = platform.libc_ver()
if libc != "glibc":
    musl = [n for n in os.listdir("/lib") if n.startswith("ld-musl")] if os.path.isdir("/lib") else []
    libc, version = ("musl", "") if musl else ("glibc", "")
print(json.dumps({"python": platform.python_version(), "libc": libc, "libc_version": version, "packages": packages}))
"""


@dataclass(frozen=True)
class PythonInside:
    """`version` is empty when the image has no `python`."""

    version: str = ""
    libc: str = "glibc"
    libc_version: str = ""
    packages: Mapping[str, str] | None = None


def known_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """env, entrypoint, cmd and workdir of an image with docker's settings `config`."""
    return {
        "env": dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        "entrypoint": tuple(config.get("Entrypoint") or ()),
        "cmd": tuple(config.get("Cmd") or ()),
        "workdir": config.get("WorkingDir") or "",
    }


async def python_inside(layers: Sequence[Path], env: Mapping[str, str]) -> PythonInside:
    """Asks the image's own `python`; whatever keeps it from answering means that there is none."""
    # -E -s: the user's PYTHON* settings and home do not change what is installed.
    result = await run_inside(layers, ("python", "-E", "-s", "-B", "-"), env=env, stdin=QUESTION)
    try:
        answer = json.loads(result.output.strip().splitlines()[-1]) if result.code == 0 else None
    except (ValueError, IndexError):
        answer = None
    if answer is None:
        return PythonInside()
    return PythonInside(answer["python"], answer["libc"], answer["libc_version"], answer["packages"])
