"""The machine itself: system, rights, Python, room on the disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from stoker.config import Settings
from stoker.doctor.check import Check, Finding, failed, ok, warning

_OLDEST_KERNEL = (5, 10)
_COMFORTABLE_GIB = 20
_PROCESSORS = Path("/proc/cpuinfo")


def _system(settings: Settings) -> Finding:
    name, release, machine = platform.system(), platform.release(), platform.machine()
    found = f"{name} {release} on {machine}"
    if name != "Linux":
        return failed(found, "Use Linux, or `--runtime process` for development without isolation.")
    if machine not in ("x86_64", "aarch64"):
        return failed(found, "gVisor exists for x86_64 and aarch64 only. `--runtime process` works elsewhere.")
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if version < _OLDEST_KERNEL:
        return failed(found, "Use a kernel of 5.10 or newer.")
    return ok(found)


def _rights(settings: Settings) -> Finding:
    if os.geteuid() == 0:
        return ok("running as root")
    return failed(
        f"running as user {os.geteuid()}",
        "Run with sudo, or use `--runtime process` for development without isolation.",
    )


def _python(settings: Settings) -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        return failed(found, "Install Stoker with Python 3.10, 3.11, 3.12 or 3.13.")
    return ok(found)


def _disk(settings: Settings) -> Finding:
    place = settings.data
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:.1f} GiB free for {settings.data}"
    if free < settings.min_free_disk_mib * 2**20:
        return failed(
            found,
            f"Free some space: below {settings.min_free_disk_mib} MiB (setting min_free_disk_mib) all new work is refused.",
        )
    if free < _COMFORTABLE_GIB * 2**30:
        return warning(found, f"Images with CUDA libraries take many GiB each; {_COMFORTABLE_GIB} GiB is a good start.")
    return ok(found)


def _data(settings: Settings) -> Finding:
    place: Path = settings.data
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return failed(f"{place} is not a directory", "Remove it, or choose another directory with --data.")
    if not os.access(place, os.W_OK | os.X_OK):
        return failed(f"{place} cannot be written", "Run as its owner, or choose another directory with --data.")
    return ok(str(settings.data))


def _amx(settings: Settings) -> Finding:
    try:
        flags = _PROCESSORS.read_text().partition("\nflags")[2].partition("\n")[0].split()
    except OSError:
        flags = []
    if "amx_tile" not in flags:
        return ok("this processor has no AMX")
    return warning(
        "this processor has AMX, and so programs in sandboxes see it, but gVisor does not let them use it",
        "Programs that do not ask the kernel before they use AMX die of SIGILL, such as vLLM on CPUs. See docs/operate.md.",
    )


SYSTEM = Check("system", "Sandboxes use namespaces, overlays and cgroups of the Linux kernel.", _system)
RIGHTS = Check("root", "Mounts, network namespaces and cgroups of sandboxes belong to root.", _rights)
PYTHON = Check("python", "The server runs on Python 3.10 to 3.13.", _python)
DATA = Check("data", "Everything the server keeps lies in one directory.", _data)
DISK = Check("disk", "Images, volumes and results lie in the data directory.", _disk)
AMX = Check("amx", "What a processor announces should work in sandboxes.", _amx)
