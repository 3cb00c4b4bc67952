"""Base images made from Debian packages, for machines without a container registry."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import math
import os
import platform
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from stoker.aio.processes import private, stream
from stoker.errors import ImageBuildFailed
from stoker.images import aptsources, hostconfig, ocilayout
from stoker.images.base import LogSink

PYTHONS = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}
"""The Python of each Debian release."""

_RELEASES = {"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}
_ALIASES = {
    "oldoldstable": "bullseye",
    "oldstable": "bookworm",
    "stable": "trixie",
    "latest": "trixie",
    "": "trixie",
}
_ALIASES |= {"testing": "forky", "unstable": "sid", "sid": "sid"}
_NEWEST_PYTHON = "3.13"
_RETRY_SECONDS = 86_400.0  # until a base that could not be made anew is tried again

_PYTHON_TAG = re.compile(
    r"^(?P<version>\d+(?:\.\d+){0,2})?(?:(?:a|b|rc)\d+)?-?(?P<slim>slim)?-?(?P<suite>bullseye|bookworm|trixie|forky)?$"
)
_DEBIAN_TAG = re.compile(r"^(?P<suite>[a-z]+|\d+)?(?:\.\d+)?(?:-\d{8})?-?(?P<slim>slim)?$")

_RECIPE = "1"
"""Changes whenever the result of the same request would differ."""

_MINIMAL = ("ca-certificates", "tzdata", "netbase")
_PYTHON = ("python3", "python3-dev", "python3-venv")
_FULL = (
    "build-essential",
    "git",
    "curl",
    "wget",
    "pkg-config",
    "openssh-client",
    "unzip",
    "xz-utils",
    "procps",
)

_UNINTERESTING = ("tempdir", "automatically", "customize-hook", "chroot architecture", "signed-by")

_FINISH = r"""set -eu
root="$1"
mkdir -p "$root/usr/local/share/ca-certificates"
for certificate in "$STOKER_CERTIFICATES"/*.crt; do
    [ ! -e "$certificate" ] || cp "$certificate" "$root/usr/local/share/ca-certificates/"
done
chroot "$root" update-ca-certificates > /dev/null 2>&1
if [ -e "$root/usr/bin/python3" ]; then
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    version="$(chroot "$root" /usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    ln -sf /usr/bin/python3 "$root/usr/local/bin/python3"
    ln -sf python3 "$root/usr/local/bin/python"
    ln -sf /usr/bin/python3 "$root/usr/local/bin/python$version"
    # pip from its wheel and not from its package: pip can then upgrade itself.
    chroot "$root" /bin/sh -c '
        PYTHONPATH="$(echo /usr/share/python-wheels/*.whl | tr " " :)" /usr/local/bin/python3 -m pip install --quiet \
            --no-index --no-cache-dir --find-links /usr/share/python-wheels pip setuptools' 2>&1 | grep -v "as the .root. user" || true
    chroot "$root" /usr/local/bin/python3 -m pip --version
    [ -e "$root/usr/local/bin/pip" ] || printf '#!/bin/sh\nexec /usr/local/bin/python3 -m pip "$@"\n' > "$root/usr/local/bin/pip"
    chmod +x "$root/usr/local/bin/pip"
fi
# Like the official images: no packages or lists left behind by `apt-get install`.
printf 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\nAPT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };\nDir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n' > "$root/etc/apt/apt.conf.d/docker-clean"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/tmp/* "$root"/var/log/*.log "$root"/var/log/apt "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
"""


@dataclass(frozen=True)
class DebianBase:
    """What a well-known image name asks for, in Debian's terms. `note` says in which way the result differs from it."""

    suite: str
    python: str  # "3.11", or empty for none
    full: bool  # with compilers and tools, as the variants of python that are not "slim"
    note: str = ""


def debian_base(name: str) -> DebianBase | None:
    """The Debian release that can stand in for the image `name` (like `python:3.11-slim-trixie`), None when none can.

    Raises ImageBuildFailed when the name asks for a Python that no Debian release has."""
    repository, _, tag = name.partition(":")
    repository = repository.removeprefix("docker.io/").removeprefix("library/")
    tag = "" if tag == "latest" else tag
    if repository == "python" and (match := _PYTHON_TAG.match(tag)):
        wanted = match["version"] or _NEWEST_PYTHON
        python = ".".join(wanted.split(".")[:2]) if "." in wanted else _NEWEST_PYTHON
        if python not in PYTHONS:
            raise ImageBuildFailed(
                f"Without a container registry there is no Python {python}: Debian's releases have {', '.join(PYTHONS)}. "
                f"Ask for one of these (`python_version=...`), or {_mirror_advice(name)}"
            )
        suite = PYTHONS[python]
        notes = []
        if match["suite"] and match["suite"] != suite:
            notes.append(
                f"Debian {suite} instead of {match['suite']}, because that is the release with Python {python}"
            )
        if wanted.count(".") == 2:
            notes.append(f"the newest Python {python} of that release instead of exactly {wanted}")
        return DebianBase(suite, python, not match["slim"], "; ".join(notes))
    if repository == "debian" and (match := _DEBIAN_TAG.match(tag)):
        word = match["suite"] or ""
        suite = _RELEASES.get(word) or _ALIASES.get(word) or word
        if suite in (*_RELEASES.values(), "sid"):
            return DebianBase(suite, "", False)
    return None


async def bootstrap(base: DebianBase, cache: Path, log: LogSink, *, max_age: float = math.inf) -> Path:
    """The OCI layout of `base`, made with mmdebstrap on first use (about half a minute) and then kept in `cache`.

    max_age: seconds after which it is made anew, with the packages of that day; when that fails the old one goes on being used. Several
    servers may share `cache`. Raises ImageBuildFailed with what mmdebstrap said."""
    certificates = hostconfig.added_authorities()
    sources = aptsources.sources_for(base.suite, await asyncio.to_thread(aptsources.host_sources))
    layout = cache / await asyncio.to_thread(_key, base, certificates, sources)
    if _is_fresh(layout, max_age):
        return layout
    if shutil.which("mmdebstrap") is None:
        if layout.is_dir():
            return layout
        raise ImageBuildFailed(
            "`mmdebstrap` is needed to make a base image from Debian packages and was not found; install it "
            "(`apt-get install mmdebstrap`), or configure a registry mirror."
        )
    cache.mkdir(parents=True, exist_ok=True)
    async with _exclusively(cache / f"{layout.name}.lock", log):
        if not _is_fresh(layout, max_age):
            try:
                await _make(base, layout, certificates, sources, log)
            except ImageBuildFailed as error:
                if not layout.is_dir():
                    raise
                log(f"Note: the base could not be made anew, so the old one is used for another day.\n{error}\n")
                tried_again = time.time() - max_age + _RETRY_SECONDS
                os.utime(layout, (tried_again, tried_again))
    return layout


def _is_fresh(layout: Path, max_age: float) -> bool:
    return layout.is_dir() and time.time() - layout.stat().st_mtime <= max_age


def _mirror_advice(name: str) -> str:
    host = name.split("/")[0] if "." in name.split("/")[0] else "docker.io"
    return (
        f'set a mirror that holds `{name}` (in stoker.toml: registry_mirrors = {{"{host}" = "registry.example:5000"}}) '
        "and build again."
    )


async def _make(
    base: DebianBase,
    layout: Path,
    certificates: tuple[Path, ...],
    sources: tuple[aptsources.Source, ...],
    log: LogSink,
) -> None:
    what = f"Debian {base.suite}" + (f" with Python {base.python}" if base.python else "")
    log(f"Making a base image of {what} from Debian's packages; this happens once on this machine.\n")
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=layout.parent))
    try:
        own = work / "certificates"
        own.mkdir()
        for path in certificates:
            shutil.copy(path, own / path.name)
        hook = work / "finish"
        hook.write_text(_FINISH)
        said: list[str] = []

        def line(text: str) -> None:
            said.append(text)
            if text.startswith("I: ") and not any(word in text for word in _UNINTERESTING):
                log(f"  {text[3:]}\n")

        env = {**os.environ, "STOKER_CERTIFICATES": str(own), "LC_ALL": "C.UTF-8", "TMPDIR": str(work)}
        # pip inside the new system must not read the host's configuration: the paths in it do not exist there.
        env = {name: value for name, value in env.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
        code = await stream(private(_command(base, work / "base.tar", hook, sources)), env=env, line=line)
        if code:
            tail = "\n".join(said[-30:])
            raise ImageBuildFailed(
                f"The base image of {what} could not be made from Debian's packages (mmdebstrap, exit code {code}):\n{tail}"
            )
        made = work / "layout"
        await asyncio.to_thread(
            ocilayout.pack,
            work / "base.tar",
            made,
            architecture={"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            env=_image_env(base, bool(certificates)),
            cmd=("python3",) if base.python else ("bash",),
        )
        if layout.is_dir():
            layout.rename(work / "old")  # goes with the rest of `work`
        made.rename(layout)
    finally:
        await asyncio.to_thread(shutil.rmtree, work, True)


def _command(base: DebianBase, tar: Path, hook: Path, sources: tuple[aptsources.Source, ...]) -> tuple[str, ...]:
    packages = [*_MINIMAL]
    if base.python:
        packages += _PYTHON
        packages += ["python3-distutils"] if base.suite in ("bullseye", "bookworm") else []
    if base.full:
        packages += _FULL
    options = {
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        **aptsources.inherited_options(),
    }
    command = [
        "mmdebstrap",
        "--variant=minbase",
        "--mode=root",
        "--format=tar",
        f"--include={','.join(packages)}",
    ]
    command += [f'--aptopt={name} "{value}"' for name, value in options.items()]
    command += ["--skip=cleanup/apt"]  # the hook cleans up
    # A half-written system is thrown away anyway, here and in build steps, so dpkg need not wait for the disk.
    command += ["--dpkgopt=force-unsafe-io"]
    for path in ("man/*", "doc/*", "locale/*", "info/*", "groff/*", "lintian/*"):
        command.append(f"--dpkgopt=path-exclude=/usr/share/{path}")
    command.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    command.append("--dpkgopt=path-exclude=/usr/lib/python3*/config-*/libpython*.a")
    command.append(f'--customize-hook=sh {shlex.quote(str(hook))} "$1"')
    return (*command, base.suite, str(tar), *(aptsources.line(source) for source in sources))


def _image_env(base: DebianBase, authorities: bool) -> dict[str, str]:
    env = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
    if base.python:
        env["LANG"] = "C.UTF-8"
    if authorities:
        env |= dict.fromkeys(hostconfig.RUNTIME_BUNDLE_VARIABLES, hostconfig.SYSTEM_BUNDLE)
    return env


def _key(base: DebianBase, certificates: tuple[Path, ...], sources: tuple[aptsources.Source, ...]) -> str:
    # Whatever the result depends on, so that a changed recipe never finds an old result.
    command = _command(base, Path("base.tar"), Path("finish"), sources)
    content = hashlib.sha256(repr((_RECIPE, _FINISH, command)).encode())
    for path in certificates:
        content.update(path.read_bytes())
    name = f"debian-{base.suite}" + (f"-python{base.python}" if base.python else "") + ("" if base.full else "-slim")
    return f"{name}-{platform.machine()}-{content.hexdigest()[:12]}"


@contextlib.asynccontextmanager
async def _exclusively(path: Path, log: LogSink) -> AsyncIterator[None]:
    """Holds the lock file `path`, against other processes too."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("Waiting for another build that is making the same base image.\n")
            # A thread of its own: the wait may last a minute, and a cancelled wait ends when the file is closed by its owner.
            await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
