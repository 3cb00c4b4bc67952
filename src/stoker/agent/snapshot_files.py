"""The node's part in memory snapshots: what lies in a container's directory for it, and what must be equal for a snapshot to be usable."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

HOOK_DIR = "/__modal/snapshot"
"""Inside; first on PYTHONPATH of containers that take or use snapshots."""

BASE_PROGRAM = "/__modal/base/base.py"
"""Inside; what a container runs that is saved as the base of an image."""

BASE_READY = b"stoker: the base is ready"
"""What it says then, `READY` of snapshot_base.py."""

_PROGRAMS = {
    f"{HOOK_DIR}/sitecustomize.py": Path(__file__).with_name("snapshot_hook.py"),
    BASE_PROGRAM: Path(__file__).with_name("snapshot_base.py"),
}


def make_hook_layer(directory: Path) -> Path:
    """A layer of the root file system with our programs in their places."""
    for name, source in _PROGRAMS.items():
        target = directory / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    return directory


def machine_identity(runtime_build: str, gpu: str) -> str:
    """What a snapshot depends on besides its function: the sandbox's build, the processor's features, the GPU and its driver, our programs."""
    programs = (source.read_text() for source in _PROGRAMS.values())
    parts = (runtime_build, platform.machine(), _processor(), gpu, _driver() if gpu else "", *programs)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def write_before(task_dir: Path, env: Mapping[str, str], *, reseed: bool) -> None:
    """What the hook reads, before and after the snapshot."""
    (task_dir / "snapshot.json").write_text(json.dumps({"env": dict(env), "reseed": reseed}))


def prepare_to_let_go(task_dir: Path, task_id: str, function_id: str, env: Mapping[str, str]) -> None:
    """Writes what `let_go` needs. Before a container is saved, for the snapshot may fill the disk."""
    # The client reads keys in any case and writes names in capitals; "" would mean "as it was". The rest is the hook's.
    state = {name: value for name, value in env.items() if value and name == name.upper()}
    state |= {"task_id": task_id, "function_id": function_id}
    # Beside the directory and not in it, where a container that runs could put a link to any file of the host.
    _prepared(task_dir).write_text(json.dumps(state))


def let_go(task_dir: Path) -> None:
    """Puts the file in its place for which a container waits after it was saved or restored."""
    # In one step: the client reads it the moment it exists.
    os.replace(_prepared(task_dir), task_dir / "restore-state.json")


def discard(task_dir: Path) -> None:
    """Removes a container's directory, with what was prepared for it."""
    _prepared(task_dir).unlink(missing_ok=True)
    shutil.rmtree(task_dir, ignore_errors=True)


def tell_base(task_dir: Path, env: Mapping[str, str], directory: str) -> None:
    """Writes what a container that comes from a base shall be; must be there before it is restored."""
    (task_dir / "base.json").write_text(json.dumps({"env": dict(env), "directory": directory}))


@lru_cache(maxsize=1)
def _processor() -> str:
    """Vendor and features of the first processor, the same on machines of one kind."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("vendor_id", "flags", "Features", "CPU implementer"):
            found.setdefault(name.strip(), " ".join(sorted(value.split())))
        if not line.strip():
            break
    return json.dumps(found, sort_keys=True)


def _driver() -> str:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""


def _prepared(task_dir: Path) -> Path:
    return task_dir.with_name(f"{task_dir.name}.restore-state")
