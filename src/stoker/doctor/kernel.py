"""What the kernel must offer for sandboxes: overlays, cgroups, forwarding."""

from __future__ import annotations

import os
from pathlib import Path

from stoker.config import Settings
from stoker.doctor.check import Check, Finding, Report, failed, ok, warning
from stoker.doctor.command import run
from stoker.errors import StokerError
from stoker.runtime.cgroups import Hierarchy

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def _overlay(settings: Settings) -> Finding:
    if "overlay" in Path("/proc/filesystems").read_text().split():
        return ok("the kernel has it")
    return failed("the kernel does not list it", "Load it with `modprobe overlay`; --fix does.")


def _load_overlay(settings: Settings, report: Report) -> None:
    run(["modprobe", "overlay"], report)


def _cgroups(settings: Settings) -> Finding:
    try:
        version = Hierarchy.detect().version
    except StokerError as error:
        return failed("controllers are missing", str(error))
    return ok(f"version {version}")


def _forwarding(settings: Settings) -> Finding:
    if _FORWARD.read_text().strip() == "1":
        return ok("on")
    if os.access(_FORWARD, os.W_OK):
        return ok("off; the server switches it on")
    return warning("off, and not to be switched on here", "Run `sysctl net.ipv4.ip_forward=1` where that is allowed.")


OVERLAY = Check(
    "overlayfs",
    "A container's root is the read-only layers of its image under a layer of its own.",
    _overlay,
    repair=_load_overlay,
)
CGROUPS = Check("cgroups", "They enforce CPU and memory limits, and tell when memory ran out.", _cgroups)
FORWARDING = Check("ip_forward", "Packets of sandboxes reach the internet through the host.", _forwarding)
