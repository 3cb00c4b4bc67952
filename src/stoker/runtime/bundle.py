"""The OCI configuration of one container, as a pure function, so that restoring a snapshot can make it again with other mount sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stoker.runtime import init
from stoker.runtime.base import ContainerSpec

_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        [
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ]
    )
]
_MASKED = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/sys/firmware",
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_OPEN_FILES = 65_536


def make_bundle(
    spec: ContainerSpec,
    *,
    root: Path,
    first: Path,
    namespace: Path,
    hostname: str,
    devices: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """`config.json` for `spec` with "/" at `root`, the program of the first process at `first` and the network namespace at `namespace`."""
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        *(_bind(mount.source, mount.target, mount.read_only, mount.direct) for mount in spec.mounts),
        # Last, so that a mount at /__modal does not hide it.
        _bind(first, init.INSIDE, read_only=True),
    ]
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": {"path": str(root), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [init.INSIDE, *spec.argv],
            "env": [f"{name}={value}" for name, value in spec.env.items()],
            "cwd": spec.workdir or "/",
            "capabilities": {kind: _CAPABILITIES for kind in ("bounding", "effective", "permitted")},
            "rlimits": [_rlimit("NOFILE", _OPEN_FILES), _rlimit("NPROC", spec.limits.tasks)],
            "noNewPrivileges": True,
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "mount"},
                {"type": "network", "path": str(namespace)},
            ],
            "devices": list(devices),
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }


def system_files(hostname: str, address: str, resolv_conf: str) -> dict[str, str]:
    """Files of /etc that belong to the machine and not to the image: path relative to "/" -> text.

    Each has the same size for every address: a restored sandbox takes the sizes of files it knew for unchanged."""
    return {
        "etc/hostname": f"{hostname}\n",
        "etc/hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address:<15}\t{hostname}\n",
        "etc/resolv.conf": resolv_conf,
    }


def _rlimit(name: str, most: int) -> dict[str, Any]:
    return {"type": f"RLIMIT_{name}", "soft": most, "hard": most}


def _bind(source: Path, target: str, read_only: bool, direct: bool = False) -> dict[str, Any]:
    options = ["rbind", "ro" if read_only else "rw", "nosuid", "nodev"]
    return {
        "destination": target,
        "type": "bind",
        "source": str(source),
        "options": [*options, "disable_file_handle_sharing"] if direct else options,
    }
