"""Base images by name: from a configured mirror, from their registry, or made from Debian's packages."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from stoker.cancelling import within
from stoker.errors import ImageBuildFailed
from stoker.images import debian, hostconfig
from stoker.images.base import LogSink, RegistryAuth
from stoker.images.buildah import BASE_TAG, PLAIN, Buildah
from stoker.images.uvtool import uv_binary

Origin = Literal["auto", "registry", "debian"]
"""Where bases may come from: whatever works, never Debian's packages, or only them."""

_UV = re.compile(r"^ghcr\.io/astral-sh/uv(?::(?:latest|(?P<version>\d+(?:\.\d+)*)))?$")
_CONNECT_SECONDS = 3.0
_REMEMBER_SECONDS = 300.0
_DEFAULT_HOST = "docker.io"
_API_HOSTS = {"docker.io": "registry-1.docker.io"}

_PREPARE = r"""
system=/etc/ssl/certs/ca-certificates.crt
if [ -s /run/stoker/authorities.crt ]; then
  found=
  for bundle in "$system" /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
    if [ -f "$bundle" ]; then
      [ -L "$bundle" ] || cat /run/stoker/authorities.crt >> "$bundle"
      found="${found:-$bundle}"
    fi
  done
  if [ ! -e "$system" ]; then
    mkdir -p /etc/ssl/certs
    if [ -n "$found" ]; then ln -s "$found" "$system"; else cp /run/stoker/ca-certificates.crt "$system"; fi
  fi
  # For a later update-ca-certificates, which writes the bundle anew.
  mkdir -p /usr/local/share/ca-certificates
  cp /run/stoker/authorities/*.crt /usr/local/share/ca-certificates/
fi
# Official images come without bytecode, which would otherwise be made again by every container.
if command -v python > /dev/null 2>&1; then
  python -c 'import compileall, sysconfig; compileall.compile_dir(sysconfig.get_paths()["stdlib"], quiet=2, workers=0)' > /dev/null 2>&1
fi
exit 0
"""


class BaseImages:
    """Brings base images into buildah's storage, each once. `cache` is shared by all servers of the machine."""

    def __init__(
        self,
        buildah: Buildah,
        cache: Path,
        *,
        mirrors: Mapping[str, str],
        insecure: Sequence[str],
        origin: Origin,
        refresh_days: float,
    ) -> None:
        """refresh_days: the age from which on bases made from Debian's packages are made anew for new builds."""
        self._buildah = buildah
        self._cache = cache
        self._mirrors = dict(mirrors)
        self._insecure = frozenset(insecure)
        self._origin = origin
        self._refresh_seconds = refresh_days * 86_400
        self._known = buildah.directory / "bases"
        self._locks: dict[str, asyncio.Lock] = {}
        self._unreachable: dict[str, tuple[float, str]] = {}

    async def ensure(self, name: str, log: LogSink, *, auth: RegistryAuth | None = None, refresh: bool = False) -> str:
        """The local image that stands for `name` (`python:3.11-slim`). Brings it in when it is not there yet, or anew from its
        registry when `refresh`.

        Raises ImageBuildFailed that says what was tried and what to do."""
        local = f"{BASE_TAG}:{_safe(name)}"
        record = self._known / f"{_safe(name)}.json"
        async with self._locks.setdefault(local, asyncio.Lock()):
            if record.exists() and not self._is_due(record, refresh):
                return local
            origin = await self._bring(name, local, log, auth)
            self._known.mkdir(parents=True, exist_ok=True)
            # In one step: half a record, as a full disk leaves it, would be in the way of every later build.
            written = record.with_suffix(".new")
            written.write_text(json.dumps({"name": name, "from": origin}))
            written.replace(record)
        return local

    def _is_due(self, record: Path, refresh: bool) -> bool:
        """Whether a base is brought in anew: from its registry when asked to, from Debian's packages when it has become old."""
        origin = json.loads(record.read_bytes())["from"]
        if origin == "debian":
            return time.time() - record.stat().st_mtime > self._refresh_seconds
        return refresh and bool(origin == "registry")

    async def uv_file(self, name: str) -> Path:
        """The program in the official image of uv, `name` (`ghcr.io/astral-sh/uv:latest`)."""
        match = _UV.match(name)
        if match is None:
            raise ImageBuildFailed(
                f"`{name}` is not an image of uv that this server can supply; use `:latest` or a version."
            )
        return await uv_binary(match["version"] or "", self._cache)

    async def _bring(self, name: str, local: str, log: LogSink, auth: RegistryAuth | None) -> str:
        if match := _UV.match(name):
            await self._make_uv(match["version"] or "", local)
            return "wheel"
        failures: list[str] = []
        if self._origin != "debian":
            failures = await self._from_registries(name, local, log, auth)
            if not failures:
                return "registry"
        if self._origin != "registry":
            for failure in failures:
                log(f"{failure}\n")
            if (base := debian.debian_base(name)) is not None:
                await self._from_debian(base, name, local, log)
                return "debian"
            failures.append(
                "It cannot be made from Debian's packages either; that is possible for python:3.X[-slim] and debian:* only."
            )
        host = _host(name)
        raise ImageBuildFailed(
            f"The base image `{name}` is not available on this server.\n"
            + "".join(f"  - {failure}\n" for failure in failures)
            + f"Check its name and its secret, make {host} reachable for the server, set a mirror that has the image "
            f'(stoker.toml: registry_mirrors = {{"{host}" = "HOST:PORT"}}), or start from modal.Image.debian_slim().'
        )

    async def _from_registries(self, name: str, local: str, log: LogSink, auth: RegistryAuth | None) -> list[str]:
        """Pulls from the mirror or else the registry itself; what went wrong with each, empty when it is there."""
        host, path = _host(name), _path(name)
        failures = []
        if mirror := self._mirrors.get(host):
            problem = await self._pull(f"{mirror.rstrip('/')}/{path}", name, local, log, auth)
            if not problem:
                return []
            failures.append(problem)
        problem = await self._registry_problem(host) or await self._pull(f"{host}/{path}", name, local, log, auth)
        return [*failures, problem] if problem else []

    async def _from_debian(self, base: debian.DebianBase, name: str, local: str, log: LogSink) -> None:
        layout = await debian.bootstrap(base, self._cache / "bases", log, max_age=self._refresh_seconds)
        if base.note:
            log(f"Note: `{name}` is replaced by a base made from Debian's packages: {base.note}.\n")
        image = await self._buildah.check(
            "pull", "--quiet", "--signature-policy", str(self._buildah.policy), f"oci:{layout}"
        )
        await self._buildah.check("tag", image.split()[-1], local)

    async def _registry_problem(self, host: str) -> str:
        """Why `host` cannot be reached, empty when it can. One short attempt, remembered for some minutes."""
        until, problem = self._unreachable.get(host, (0.0, ""))
        if time.monotonic() < until:
            return problem
        if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
            return ""
        server, _, port = _API_HOSTS.get(host, host).partition(":")
        try:
            _, writer = await within(asyncio.open_connection(server, int(port or 443)), _CONNECT_SECONDS)
            writer.close()
            return ""
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no answer within {_CONNECT_SECONDS:g} s"
            problem = f"The registry {host} cannot be reached ({reason})."
            self._unreachable[host] = (time.monotonic() + _REMEMBER_SECONDS, problem)
            return problem

    async def _pull(self, source: str, name: str, local: str, log: LogSink, auth: RegistryAuth | None) -> str:
        """Pulls `source` and tags it `local`; returns what went wrong, empty for nothing."""
        log(f"Pulling {source}\n")
        arguments = ["pull", "--quiet", "--signature-policy", str(self._buildah.policy), "--retry", "1"]
        server = source.split("/")[0]
        if server in self._insecure:
            arguments.append("--tls-verify=false")
        work = Path(tempfile.mkdtemp(prefix="pull-"))
        try:
            if auth is not None and server == _host(name):
                arguments += ["--authfile", str(_auth_file(work, _host(name), auth))]
            result = await self._buildah.run(*arguments, f"docker://{source}")
            if result.code:
                return f"{source}: {_last_line(result.errors)}"
            image = result.output.split()[-1]
            await self._buildah.check("tag", image, local)
            await self._prepare(image, local, work, log)
            return ""
        finally:
            await asyncio.to_thread(shutil.rmtree, work, True)

    async def _prepare(self, image: str, local: str, work: Path, log: LogSink) -> None:
        """Adds the host's own authorities and bytecode to a pulled image; leaves it as it is when it has no shell."""
        certificates = hostconfig.added_authorities()
        run = work / "run"
        (run / "authorities").mkdir(parents=True)
        for path in certificates:
            shutil.copy(path, run / "authorities" / path.name)
        (run / "authorities.crt").write_bytes(b"".join(path.read_bytes() + b"\n" for path in certificates))
        if (bundle := hostconfig.certificate_bundle()) is not None:
            shutil.copy(bundle, run / "ca-certificates.crt")
        (run / "prepare").write_text(_PREPARE)
        settings = await self._buildah.settings(image)
        known = {entry.partition("=")[0] for entry in settings.get("Env") or ()}
        lines = [f"FROM {image}", "USER 0", "RUN sh /run/stoker/prepare", f"USER {settings.get('User') or '0'}"]
        if certificates:
            missing = [name for name in hostconfig.RUNTIME_BUNDLE_VARIABLES if name not in known]
            lines += [f"ENV {name}={hostconfig.SYSTEM_BUNDLE}" for name in missing]
        (work / "Dockerfile").write_text("\n".join(lines) + "\n")
        said: list[str] = []
        arguments = (*PLAIN, "--volume", f"{run}:/run/stoker:ro", "--tag", local, "--file", str(work / "Dockerfile"))
        code = await self._buildah.build((*arguments, str(work)), env={}, line=said.append)
        if code and certificates:
            log(f"Note: the host's own certificates could not be added to it ({' '.join(said[-1:])}).\n")

    async def _make_uv(self, version: str, local: str) -> None:
        """The official uv image holds nothing but the program; ours comes from the wheel of the same project."""
        work = Path(tempfile.mkdtemp(prefix="uv-"))
        try:
            binary = await uv_binary(version, self._cache)
            await asyncio.to_thread(shutil.copy, binary, work / "uv")
            (work / "Dockerfile").write_text("FROM scratch\nCOPY uv /uv\n")
            said: list[str] = []
            code = await self._buildah.build(
                (*PLAIN, "--tag", local, str(work)),
                env={},
                line=said.append,
            )
            if code:
                raise ImageBuildFailed("The local image with uv could not be made:\n" + "\n".join(said[-10:]))
        finally:
            await asyncio.to_thread(shutil.rmtree, work, True)


def _host(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else _DEFAULT_HOST


def _path(name: str) -> str:
    host = _host(name)
    path = name.removeprefix(f"{host}/")
    if host == _DEFAULT_HOST and "/" not in path:
        path = f"library/{path}"
    last = path.rsplit("/", 1)[-1]
    return path if ":" in last or "@" in last else f"{path}:latest"


def _safe(name: str) -> str:
    """A valid image tag and file name that no other name shares."""
    full = f"{_host(name)}/{_path(name)}"
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '-', full)[-80:].strip('-.')}-{hashlib.sha256(full.encode()).hexdigest()[:10]}"


def _auth_file(directory: Path, host: str, auth: RegistryAuth) -> Path:
    secret = auth.secret
    if auth.kind == "gcp":
        user, password = "_json_key", secret.get("SERVICE_ACCOUNT_JSON", "")
    elif auth.kind == "aws":
        raise ImageBuildFailed(
            "Amazon's registry hands out short-lived passwords, which this server does not fetch. Use Image.from_registry with a "
            "secret whose REGISTRY_USERNAME is AWS and whose REGISTRY_PASSWORD is what `aws ecr get-login-password` prints."
        )
    else:
        user, password = secret.get("REGISTRY_USERNAME", ""), secret.get("REGISTRY_PASSWORD", "")
    if not password:
        raise ImageBuildFailed(
            f"The secret for {host} has no password: it needs REGISTRY_USERNAME and REGISTRY_PASSWORD "
            "(SERVICE_ACCOUNT_JSON for Google's registry)."
        )
    path = directory / "auth.json"
    path.touch(mode=0o600)
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    names = {host, "index.docker.io/v1/"} if host == _DEFAULT_HOST else {host}
    path.write_text(json.dumps({"auths": {name: {"auth": encoded} for name in names}}))
    return path


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else "failed without a word"
