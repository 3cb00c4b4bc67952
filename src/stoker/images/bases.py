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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stoker.aio.cancelling import within
from stoker.errors import ImageBuildFailed
from stoker.images import debian, hostconfig
from stoker.images.base import LogSink
from stoker.images.buildah import BASE_TAG, Buildah
from stoker.images.finish import FILE, SOURCE, finish
from stoker.images.layer import NewLayer, Surroundings, no_origins
from stoker.images.layerstore import LayerStore
from stoker.images.plan import DEFAULT_PATH, INSIDE
from stoker.images.uvtool import uv_binary
from stoker.nodes.builds import ImageConfig, RegistryAuth
from stoker.runtime.steps import StepMount, StepRunner

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


@dataclass(frozen=True)
class Base:
    """A base image. `layers` (uppermost first) are its directories, `image` its id in buildah's storage (empty for none)."""

    layers: tuple[Path, ...]
    config: ImageConfig
    origin: str
    image: str = ""


class BaseImages:
    """Brings base images in, each once: their layers lie in buildah's storage, and what is added to them in `store`. `cache` is shared by
    all servers of the machine."""

    def __init__(
        self,
        buildah: Buildah,
        store: LayerStore,
        steps: StepRunner,
        cache: Path,
        *,
        mirrors: Mapping[str, str],
        insecure: Sequence[str],
        origin: Origin,
        refresh_days: float,
    ) -> None:
        """refresh_days: the age from which on bases made from Debian's packages are made anew for new builds."""
        self._buildah = buildah
        self._store = store
        self._steps = steps
        self._cache = cache
        self._mirrors = dict(mirrors)
        self._insecure = frozenset(insecure)
        self._origin = origin
        self._refresh_seconds = refresh_days * 86_400
        self._known = BaseRecords(buildah)
        self._locks: dict[str, asyncio.Lock] = {}
        self._unreachable: dict[str, tuple[float, str]] = {}

    async def ensure(
        self,
        name: str,
        log: LogSink,
        *,
        auth: RegistryAuth | None = None,
        refresh: bool = False,
        confined: bool = False,
    ) -> Base:
        """The base image `name` (`python:3.11-slim`). Brings it in when it is not there yet, or anew from its registry when `refresh`.

        confined: a container asks for it, so that it is looked for with the network of containers. Raises ImageBuildFailed that says what was
        tried and what to do."""
        key = _safe(name)
        async with self._locks.setdefault(key, asyncio.Lock()):
            base = self._known.read(key) or await self._taken_over(key, log)
            if base is None or self._is_due(base, self._known.made_at(key), refresh):
                base = await self._bring(name, f"{BASE_TAG}:{key}", log, auth, confined)
                self._known.write(key, name, base)
            return base

    def _is_due(self, base: Base, made_at: float, refresh: bool) -> bool:
        """Whether a base is brought in anew: from its registry when asked to, from Debian's packages when it has become old."""
        if base.origin == "debian":
            return time.time() - made_at > self._refresh_seconds
        return refresh and base.origin == "registry"

    async def _bring(self, name: str, local: str, log: LogSink, auth: RegistryAuth | None, confined: bool) -> Base:
        if match := _UV.match(name):
            return await self._make_uv(match["version"] or "")
        failures: list[str] = []
        if self._origin != "debian":
            image, failures = await self._from_registries(name, local, log, auth, confined)
            if image:
                return await self._prepared(image, "registry", log, confined)
        if self._origin != "registry":
            for failure in failures:
                log(f"{failure}\n")
            if (base := debian.debian_base(name)) is not None:
                return await self._prepared(await self._from_debian(base, name, local, log), "debian", log, confined)
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

    async def _from_registries(
        self, name: str, local: str, log: LogSink, auth: RegistryAuth | None, confined: bool
    ) -> tuple[str, list[str]]:
        """Pulls from the mirror or else the registry itself: the image, or what went wrong with each."""
        host, path = _host(name), _path(name)
        failures = []
        if mirror := self._mirrors.get(host):
            # The administrator chose it, so that it may be on this machine.
            image, problem = await self._pull(f"{mirror.rstrip('/')}/{path}", name, local, log, auth)
            if image:
                return image, []
            failures.append(problem)
        source = f"{host}/{path}"
        if confined and host not in self._insecure:
            async with self._steps.network() as words:
                image, problem = await self._pull(source, name, local, log, auth, words)
        elif problem := await self._registry_problem(host):
            image = ""
        else:
            image, problem = await self._pull(source, name, local, log, auth)
        return image, [] if image else [*failures, problem]

    async def _from_debian(self, base: debian.DebianBase, name: str, local: str, log: LogSink) -> str:
        layout = await debian.bootstrap(base, self._cache / "bases", log, max_age=self._refresh_seconds)
        if base.note:
            log(f"Note: `{name}` is replaced by a base made from Debian's packages: {base.note}.\n")
        image = await self._buildah.check(
            "pull", "--quiet", "--signature-policy", str(self._buildah.policy), f"oci:{layout}"
        )
        await self._buildah.check("tag", image.split()[-1], local)
        return self._buildah.id_of(local)

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

    async def _pull(
        self,
        source: str,
        name: str,
        local: str,
        log: LogSink,
        auth: RegistryAuth | None,
        words: tuple[str, ...] = (),
    ) -> tuple[str, str]:
        """Pulls `source` and tags it `local`: the image, or else what went wrong. words: of the network to pull with."""
        log(f"Pulling {source}\n")
        arguments = ["pull", "--quiet", "--signature-policy", str(self._buildah.policy), "--retry", "1"]
        server = source.split("/")[0]
        if server in self._insecure:
            arguments.append("--tls-verify=false")
        work = Path(tempfile.mkdtemp(prefix="pull-"))
        try:
            if auth is not None and server == _host(name):
                arguments += ["--authfile", str(_auth_file(work, _host(name), auth))]
            result = await self._buildah.run(*arguments, f"docker://{source}", words=words)
            if result.code:
                return "", f"{source}: {_last_line(result.errors)}"
            await self._buildah.check("tag", result.output.split()[-1], local)
            return self._buildah.id_of(local), ""
        finally:
            await asyncio.to_thread(shutil.rmtree, work, True)

    async def _taken_over(self, key: str, log: LogSink) -> Base | None:
        """A base that an earlier version of Stoker brought in, and prepared in a way of its own."""
        earlier = self._known.earlier(key)
        if earlier is None:
            return None
        base = await self._prepared(earlier.image, "", log, confined=False)
        return replace(base, origin=earlier.origin)

    async def _prepared(self, image: str, origin: str, log: LogSink, confined: bool) -> Base:
        """Adds the host's own authorities and bytecode to an image in buildah's storage; leaves it as it is when it has no shell."""
        settings = await self._buildah.settings(image)
        if settings.get("OnBuild"):
            raise ImageBuildFailed(
                "The base image has steps of its own for those who build on it (ONBUILD), which this server does not carry out."
            )
        config = _config(settings)
        below = self._buildah.layers(image)
        async with self._store.workspace() as work:
            certificates = _write_run_files(work / "run")
            mounts = (StepMount(INSIDE, (work / "run",)),)
            around = Surroundings(work / "run", work / "caches", mounts, confined=confined)
            layer = NewLayer(self._steps, work / "layer", below, around, no_origins)
            if origin == "registry":
                if certificates:
                    missing = [name for name in hostconfig.RUNTIME_BUNDLE_VARIABLES if name not in config.env]
                    config = replace(config, env=config.env | dict.fromkeys(missing, hostconfig.SYSTEM_BUNDLE))
                said: list[str] = []
                argv = ("sh", f"{INSIDE}/prepare")
                code = await layer.run(argv, {"PATH": DEFAULT_PATH, **config.env}, said.append)
                if code and certificates:
                    log(f"Note: the host's own certificates could not be added to it ({' '.join(said[-1:])}).\n")
            python = await finish(layer, config.env, compile_since=None)
            above = (self._store.keep(layer.upper),) if any(layer.upper.iterdir()) else ()
        return Base((*above, *below), python.added_to(config), origin, image)

    async def _make_uv(self, version: str) -> Base:
        """The official uv image holds nothing but the program; ours comes from the wheel of the same project."""
        binary = await uv_binary(version, self._cache)
        async with self._store.workspace() as work:
            (work / "layer").mkdir()
            await asyncio.to_thread(shutil.copy, binary, work / "layer" / "uv")
            return Base((self._store.keep(work / "layer"),), ImageConfig(), "wheel")


class BaseRecords:
    """What is remembered of base images: a file for each, beside buildah's storage."""

    def __init__(self, buildah: Buildah) -> None:
        self._buildah = buildah
        self._directory = buildah.directory / "bases"

    def read(self, key: str) -> Base | None:
        """None also when it is damaged, or a part of it is gone: it is brought in again then."""
        try:
            document = json.loads(self._path(key).read_bytes())
            own = tuple(self._buildah.directory / layer for layer in document["layers"])
            image = document["image"]
            base = Base(
                (*own, *(self._buildah.layers(image) if image else ())),
                ImageConfig.from_json(json.dumps(document["config"])),
                document["from"],
                image,
            )
        except (FileNotFoundError, KeyError, TypeError, ValueError, ImageBuildFailed):
            return None
        return base if all(layer.is_dir() for layer in base.layers) else None

    def earlier(self, key: str) -> Base | None:
        """What an earlier version of Stoker wrote down: without settings, of an image under its local name."""
        try:
            origin = json.loads(self._path(key).read_bytes())["from"]
            image = self._buildah.id_of(f"{BASE_TAG}:{key}")
        except (FileNotFoundError, KeyError, TypeError, ValueError, ImageBuildFailed):
            return None
        return Base(self._buildah.layers(image), ImageConfig(), origin, image)

    def write(self, key: str, name: str, base: Base) -> None:
        below = self._buildah.layers(base.image) if base.image else ()
        own = [str(layer.relative_to(self._buildah.directory)) for layer in base.layers if layer not in below]
        document = {
            "name": name,
            "from": base.origin,
            "image": base.image,
            "layers": own,
            "config": json.loads(base.config.to_json()),
        }
        self._directory.mkdir(parents=True, exist_ok=True)
        # In one step: half a record, as a full disk leaves it, would be in the way of every later build.
        written = self._path(key).with_suffix(".new")
        written.write_text(json.dumps(document))
        written.replace(self._path(key))

    def made_at(self, key: str) -> float:
        """Seconds since the epoch."""
        return self._path(key).stat().st_mtime

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._directory.glob("*.json"))

    def remove(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.json"


def _config(settings: Mapping[str, Any]) -> ImageConfig:
    """What of docker's settings of an image means something here."""
    user = settings.get("User") or ""
    return ImageConfig(
        env=dict(entry.partition("=")[::2] for entry in settings.get("Env") or ()),
        entrypoint=tuple(settings.get("Entrypoint") or ()),
        cmd=tuple(settings.get("Cmd") or ()),
        workdir=settings.get("WorkingDir") or "",
        user="" if user in ("0", "root", "0:0", "root:root") else user,
        shell=tuple(settings.get("Shell") or ()),
    )


def _write_run_files(run: Path) -> tuple[Path, ...]:
    """Makes what the steps of a base see at INSIDE; answers the certificates that are to be added."""
    certificates = hostconfig.added_authorities()
    (run / "authorities").mkdir(parents=True)
    for path in certificates:
        shutil.copy(path, run / "authorities" / path.name)
    (run / "authorities.crt").write_bytes(b"".join(path.read_bytes() + b"\n" for path in certificates))
    if (bundle := hostconfig.certificate_bundle()) is not None:
        shutil.copy(bundle, run / "ca-certificates.crt")
    (run / "prepare").write_text(_PREPARE)
    (run / FILE).write_text(SOURCE)
    return certificates


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
