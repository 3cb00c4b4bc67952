"""Real GPUs in a sandbox, through gVisor's `nvproxy`. Written after NVIDIA's and gVisor's documentation; not run on hardware yet.

The driver's libraries come from the host as one more layer of the root file system, made by asking `nvidia-container-cli`.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stoker.errors import FailedPrecondition

RUNSC_FLAGS = ("--nvproxy=true",)
_INSIDE = Path("usr/local/nvidia")
_VERSION = Path("/sys/module/nvidia/version")
_making = threading.Lock()


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """What a container with a GPU needs in its environment, given what it has."""
    libraries = filter(None, (f"/{_INSIDE}/lib64", env.get("LD_LIBRARY_PATH", "")))
    return {
        "LD_LIBRARY_PATH": ":".join(libraries),
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "all",
    }


def devices(indices: Sequence[int]) -> list[dict[str, Any]]:
    """OCI device entries for the given GPUs and the driver's control devices. Raises FailedPrecondition when one is missing."""
    names = [*(f"/dev/nvidia{index}" for index in indices), "/dev/nvidiactl", "/dev/nvidia-uvm"]
    entries = []
    for name in names:
        try:
            status = os.stat(name)
        except OSError as error:
            raise FailedPrecondition(
                f"The GPU device {name} does not exist on this machine. Is the NVIDIA driver loaded? `nvidia-smi` creates the devices."
            ) from error
        if not stat.S_ISCHR(status.st_mode):
            raise FailedPrecondition(f"{name} is not a device.")
        number = status.st_rdev
        entries.append(
            {
                "path": name,
                "type": "c",
                "major": os.major(number),
                "minor": os.minor(number),
                "fileMode": 0o666,
                "uid": 0,
                "gid": 0,
            }
        )
    return entries


def driver_layer(directory: Path) -> Path:
    """A directory rooted at "/" with the host driver's libraries and programs, made on first use. Blocks. Raises FailedPrecondition."""
    try:
        version = _VERSION.read_text().strip()
    except OSError as error:
        raise FailedPrecondition(
            "The NVIDIA driver is not loaded on this machine, so no GPU can be given to a container."
        ) from error
    layer = directory / version
    with _making:  # containers that start at the same time must not fill the same directory
        if not layer.is_dir():
            _make_driver_layer(layer)
    return layer


def _make_driver_layer(layer: Path) -> None:
    if shutil.which("nvidia-container-cli") is None:
        raise FailedPrecondition(
            "`nvidia-container-cli` is missing: install the package libnvidia-container-tools from NVIDIA."
        )
    scratch = layer.with_name(f"{layer.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    for option, name in (("--libraries", "lib64"), ("--binaries", "bin")):
        target = scratch / _INSIDE / name
        target.mkdir(parents=True)
        listing = subprocess.run(["nvidia-container-cli", "list", option], capture_output=True, text=True, timeout=60)
        if listing.returncode:
            raise FailedPrecondition(f"`nvidia-container-cli list {option}` failed: {listing.stderr.strip()}")
        for line in listing.stdout.splitlines():
            _copy_with_names(Path(line), target)
    scratch.rename(layer)


def _copy_with_names(source: Path, target: Path) -> None:
    """Copies a file, and the links beside it that lead to it (libcuda.so.1 -> libcuda.so.550.54)."""
    real = source.resolve()
    shutil.copy2(real, target / real.name)
    for sibling in source.parent.iterdir():
        if sibling.is_symlink() and sibling.name != real.name and sibling.resolve() == real:
            (target / sibling.name).symlink_to(real.name)
