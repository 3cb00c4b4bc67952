"""Programs of the system that the server calls, each from a package of the same machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from stoker.agent.bucket_mounts import missing_parts
from stoker.config import Settings
from stoker.doctor.check import Check, Finding, failed, ok, warning
from stoker.runtime.user_namespace import missing_for_namespaces

_SYSTEM_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"


def _program(name: str, package: str) -> Callable[[Settings], Finding]:
    def look(settings: Settings) -> Finding:
        path = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATHS)
        if path is None:
            return failed(f"`{name}` is not on this machine", f"--fix installs the package `{package}`.")
        return ok(path)

    return look


def _keyring(settings: Settings) -> Finding:
    path = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if path.is_file():
        return ok(str(path))
    return failed(f"{path} is missing", "--fix installs the package `debian-archive-keyring`.")


def _certificates(settings: Settings) -> Finding:
    path = Path("/etc/ssl/certs/ca-certificates.crt")
    if path.is_file():
        return ok(str(path))
    return failed(f"{path} is missing", "--fix installs the package `ca-certificates`.")


def _runc(settings: Settings) -> Finding:
    if settings.build_isolation == "gvisor":
        return ok("not needed: build_isolation is gvisor")
    missing = missing_for_namespaces()
    if not missing:
        return ok(shutil.which("runc") or "")
    advice = "--fix installs the packages `runc` and `golang-github-containers-common`. Without them builds run in gVisor, which is slower."
    return (failed if settings.build_isolation == "namespaces" else warning)(missing, advice)


def _buckets(settings: Settings) -> Finding:
    missing = missing_parts()
    if missing:
        return warning(
            f"a CloudBucketMount cannot be mounted: {missing}", "Only apps with a CloudBucketMount need this."
        )
    return ok(shutil.which("rclone") or "")


BUILDAH = Check(
    "buildah",
    "Fetches base images and keeps them.",
    _program("buildah", "buildah"),
    packages=("buildah", "golang-github-containers-common"),
)
RUNC = Check(
    "runc",
    "Runs the steps of image builds, apart from the host.",
    _runc,
    packages=("runc", "golang-github-containers-common"),
)
MMDEBSTRAP = Check(
    "mmdebstrap",
    "Makes the Debian base image from packages where no container registry is reached.",
    _program("mmdebstrap", "mmdebstrap"),
    packages=("mmdebstrap",),
)
KEYRING = Check(
    "keyring",
    "Checks the signatures of those packages, and of runsc's.",
    _keyring,
    packages=("debian-archive-keyring",),
)
CERTIFICATES = Check(
    "certificates",
    "Builds and downloads check who they talk to.",
    _certificates,
    packages=("ca-certificates",),
)
NFTABLES = Check(
    "nftables",
    "Lets sandboxes reach the internet, and keeps them from the host and each other.",
    _program("nft", "nftables"),
    packages=("nftables",),
)
BUCKETS = Check(
    "buckets",
    "Apps that mount a bucket (CloudBucketMount) need rclone and FUSE (optional).",
    _buckets,
)
IPROUTE = Check(
    "iproute2",
    "Makes the network namespace of each sandbox.",
    _program("ip", "iproute2"),
    packages=("iproute2",),
)
