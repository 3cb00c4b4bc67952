"""The OCI configuration of one container, as a pure function, so that restoring a snapshot can make it again with other mount sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        *_system_mounts(),
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
            "env": _environment(spec.env),
            "cwd": spec.workdir or "/",
            "capabilities": _capabilities(),
            "rlimits": [_rlimit("NOFILE", _OPEN_FILES), _rlimit("NPROC", spec.limits.tasks)],
            "noNewPrivileges": True,
        },
        "mounts": mounts,
        "linux": _linux(namespace) | {"devices": list(devices)},
    }


def step_config(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, *, hostname: str, namespace: Path
) -> dict[str, Any]:
    """`config.json` for a command of a build, but for its root, what is mounted from the host, and its user."""
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "process": {
            "terminal": False,
            "args": list(argv),
            "env": _environment(env),
            "cwd": cwd,
            "capabilities": _capabilities(),
            "noNewPrivileges": False,  # a step may use sudo
        },
        "mounts": _system_mounts(),
        "linux": _linux(namespace),
    }


def system_files(hostname: str, address: str, resolv_conf: str) -> dict[str, str]:
    """Files of /etc that belong to the machine and not to the image: path relative to "/" -> text.

    Each has the same size for every address: a restored sandbox takes the sizes of files it knew for unchanged."""
    return {
        "etc/hostname": f"{hostname}\n",
        "etc/hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address:<15}\t{hostname}\n",
        "etc/resolv.conf": resolv_conf,
    }


def _system_mounts() -> list[dict[str, Any]]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ]


def _environment(env: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env.items()]


def _capabilities() -> dict[str, list[str]]:
    return {kind: _CAPABILITIES for kind in ("bounding", "effective", "permitted")}


def _linux(namespace: Path) -> dict[str, Any]:
    return {
        "namespaces": [
            {"type": "pid"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "mount"},
            {"type": "network", "path": str(namespace)},
        ],
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
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
