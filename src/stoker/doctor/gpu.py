"""NVIDIA GPUs, which a server may have or not."""

from __future__ import annotations

import shutil
from pathlib import Path

from stoker.config import Settings
from stoker.doctor.check import Check, Finding, ok, warning

_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY_CLASS = "0x10de", "0x03"


def _gpu(settings: Settings) -> Finding:
    count, version = nvidia_devices(), driver_version()
    if not version:
        if count:
            return warning(
                f"{count} NVIDIA GPU(s) but no driver loaded",
                "Install NVIDIA's driver; until then GPU apps cannot run.",
            )
        return ok("none; apps that ask for one need `stoker up --fake-gpus` and run on the CPU")
    found = f"driver {version}, {count} GPU(s)"
    if settings.runtime == "runsc" and shutil.which("nvidia-container-cli") is None:
        return warning(
            f"{found}, without nvidia-container-cli",
            "Install NVIDIA's package libnvidia-container-tools: it says which driver files a container needs.",
        )
    return ok(f"{found}; `stoker doctor --gpu` tries them")


def driver_version() -> str:
    """Of the loaded kernel module; empty for none."""
    path = Path("/sys/module/nvidia/version")
    return path.read_text().strip() if path.is_file() else ""


def nvidia_devices() -> int:
    """NVIDIA display controllers on the PCI bus, with or without a driver."""
    if not _DEVICES.is_dir():
        return 0
    return sum(
        (device / "vendor").read_text().strip() == _NVIDIA and (device / "class").read_text().startswith(_DISPLAY_CLASS)
        for device in _DEVICES.iterdir()
        if (device / "vendor").is_file() and (device / "class").is_file()
    )


GPU = Check("gpu", "Apps that ask for a GPU are given one of these (optional).", _gpu)
