"""What runc is told so that a command runs in namespaces of its own, with users of its own and without most system calls."""

from __future__ import annotations

import errno
import json
import platform
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from stoker.nodes.endings import Limits

FIRST_USER = 0x70000000
"""Root of such a command is this user of the host, which is nobody there: the first one above those that systemd gives to containers."""
_USERS = 65_536

_PROFILES = (Path("/usr/share/containers/seccomp.json"), Path("/etc/containers/seccomp.json"))
"""The system calls that podman and buildah leave to containers, kept by the distribution (package containers-common)."""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_FORBIDDEN = frozenset(
    {
        # Other namespaces and mounts: that would be a way to much more of the kernel.
        *("fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree"),
        *("pivot_root", "setns", "umount", "umount2", "unshare"),
        # What belongs to the whole machine.
        *("add_key", "keyctl", "reboot", "request_key", "syslog"),
    }
)
_CAPABILITIES = frozenset({"CAP_SYS_CHROOT"})
"""The only one that a command has of those that open system calls: others it has over its own namespaces alone."""
_CLONE_NAMESPACES = 0x7E020000
"""Flags of clone; those of clone3 cannot be seen, so that it is unknown altogether."""


def with_user_namespace(config: Mapping[str, Any], *, cgroup: str, limits: Limits) -> dict[str, Any]:
    """`config` (of `step_config`) for runc. cgroup: the group's path below where cgroups are mounted."""
    mapping = [{"containerID": 0, "hostID": FIRST_USER, "size": _USERS}]
    linux = dict(config["linux"])
    return {
        **config,
        "mounts": [mount for entry in config["mounts"] for mount in _mounts(entry)],
        "linux": linux
        | {
            "uidMappings": mapping,
            "gidMappings": mapping,
            "namespaces": [*linux["namespaces"], {"type": "user"}, {"type": "cgroup"}],
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": limits.tasks}},
            "seccomp": seccomp_profile(),
        },
    }


def missing_for_namespaces() -> str:
    """The programs and files that this machine lacks for it, a sentence; empty when all are there."""
    if shutil.which("runc") is None:
        return "The program `runc` is missing."
    if seccomp_profile() is None:
        return "The list of system calls for containers (seccomp.json of containers-common) is missing."
    return ""


@lru_cache(maxsize=1)
def seccomp_profile() -> dict[str, Any] | None:
    """The system calls of a command, as runc wants them; None when the distribution's list is not there."""
    source = next((path for path in _PROFILES if path.is_file()), None)
    if source is None:
        return None
    document = json.loads(source.read_bytes())
    machine = _MACHINES.get(platform.machine(), platform.machine())
    rules = [rule for entry in document["syscalls"] if (rule := _rule(entry, machine)) is not None]
    clone = {"index": 0, "value": _CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules.append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [clone]})
    rules.append({"names": sorted(_FORBIDDEN), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM})
    return {
        # "Unknown" and not "forbidden": C libraries then do without, as they do on older kernels.
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": _architectures(document),
        "syscalls": rules,
    }


def _rule(entry: Mapping[str, Any], machine: str) -> dict[str, Any] | None:
    """A rule of the distribution's list, when it holds for a command."""
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if set(includes.get("caps") or ()) - _CAPABILITIES or _CAPABILITIES & set(excludes.get("caps") or ()):
        return None
    if machine not in (includes.get("arches") or [machine]):
        return None
    names = [name for name in entry["names"] if name not in _FORBIDDEN and name not in ("clone", "clone3")]
    kept = {name: entry[name] for name in ("args", "errnoRet") if entry.get(name)}
    return {"names": names, "action": entry["action"], **kept} if names else None


def _architectures(document: Mapping[str, Any]) -> list[str]:
    own = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}.get(platform.machine(), "")
    for entry in document.get("archMap") or ():
        if entry["architecture"] == own:
            return [own, *entry["subArchitectures"]]
    return [own] if own else []


def _mounts(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The kernel shows its devices only to users of the network's own namespace, so that of /sys there is what tells the processors."""
    if entry["destination"] == "/sys":
        hidden = {**entry, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "nodev", "mode=755"]}
        system = "/sys/devices/system/cpu"
        options = ["rbind", "ro", "nosuid", "noexec", "nodev"]
        return [hidden, {"destination": system, "type": "bind", "source": system, "options": options}]
    if entry["destination"] == "/dev/pts":
        return [{**entry, "options": [*entry["options"], "newinstance", "ptmxmode=0666", "mode=0620"]}]
    return [entry]
