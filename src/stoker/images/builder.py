"""Images built by buildah, one Dockerfile per layer; a built image is a list of directories that an overlay puts together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from stoker.errors import ImageBuildFailed
from stoker.images import context as build_context
from stoker.images import dockerfile, hostconfig, inspection, recipe
from stoker.images.base import BuildContext, ImageConfig, ImageSpec, LogSink
from stoker.images.bases import BaseImages, Origin
from stoker.images.buildah import Buildah
from stoker.images.cachedir import default_cache
from stoker.images.client import ClientTrees
from stoker.images.records import Record, Records
from stoker.images.steplog import StepLog

_TAG = "localhost/stoker"
_NEVER_FROM_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "GODEBUG")
_NEVER_PREFIXES = ("LD_", "BUILDAH_", "CONTAINERS_", "STORAGE_", "XDG_", "REGISTRY_")


class BuildahImageBuilder:
    """ImageBuilder that keeps all it builds under `data`/images. Works as root on Linux only.

    Base images: `registry_mirrors` maps a registry to what stands in for it, `insecure_registries` are reached over plain HTTP,
    `base_origin` says where bases may come from. `cache` (shared by all servers of the machine) holds what can be made again: bases
    made from Debian's packages, downloads of pip and uv, client trees."""

    def __init__(
        self,
        data: Path,
        *,
        registry_mirrors: Mapping[str, str] | None = None,
        insecure_registries: Sequence[str] = (),
        base_origin: Origin = "auto",
        cache: Path | None = None,
        max_builds: int = 4,
    ) -> None:
        self._directory = data / "images"
        self._cache = cache or default_cache()
        self._buildah = Buildah(self._directory)
        self._records = Records(self._directory / "built")
        self._bases = BaseImages(
            self._buildah,
            self._cache,
            mirrors=registry_mirrors or {},
            insecure=insecure_registries,
            origin=base_origin,
        )
        self._clients = ClientTrees(self._cache, self._records)
        self._slots = asyncio.Semaphore(max_builds)

    async def open(self) -> None:
        """Prepares the storage and removes what a killed server left. Raises FailedPrecondition when buildah cannot be used here."""
        await self._buildah.open()
        await asyncio.to_thread(shutil.rmtree, self._work, True)
        self._work.mkdir(parents=True)

    async def build(self, image_id: str, spec: ImageSpec, context: BuildContext, log: LogSink) -> ImageConfig:
        source = dockerfile.parse(spec.commands, spec.build_args)
        started = time.time()
        async with self._slots, self._workspace() as work:
            sources = hostconfig.package_sources()
            variables = self._run_environment(work, sources.environment) | dict(context.secret_env)

            async def resolve(name: str) -> str:
                return await self._local_image(name, spec, context, log)

            steps = await recipe.write(source, resolve, variables, started)
            self._fill(work / "run", steps.run_files)
            files = {**spec.context_files, **steps.context_files}
            tree = await asyncio.to_thread(build_context.materialise, work / "context", files, context.mount_tree)
            (work / "Dockerfile").write_text(steps.text)
            output = StepLog(steps, log)
            mounts = self._mounts(work, sources.paths)
            arguments, env = _arguments(work, variables, spec.build_args, mounts)
            tag = f"{_TAG}:{image_id}"
            code = await self._buildah.build((*arguments, "--tag", tag, str(tree)), env=env, line=output)
            if code:
                raise ImageBuildFailed(output.failure(code))
            image = (work / "image").read_text().removeprefix("sha256:")
        return await self._record(image_id, image, source, spec)

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        return self._records.read(image_id).layers

    async def client_layers(self, client_version: str, config: ImageConfig) -> tuple[Path, ...]:
        return await self._clients.layers(client_version, config)

    async def remove(self, image_id: str) -> None:
        """Forgets the image; layers that other images are built on stay. No error when it does not exist."""
        self._records.remove(image_id)
        await self._buildah.run("rmi", f"{_TAG}:{image_id}")

    async def close(self) -> None:
        """Nothing is held: layers are plain directories."""

    @property
    def _work(self) -> Path:
        return self._directory / "work"

    @contextlib.asynccontextmanager
    async def _workspace(self) -> AsyncIterator[Path]:
        """A private directory of one build: run/ (seen by RUN steps), context/, the Dockerfile."""
        self._work.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=self._work))
        try:
            yield path
        finally:
            await asyncio.to_thread(shutil.rmtree, path, True)

    def _run_environment(self, work: Path, packages: Mapping[str, str]) -> dict[str, str]:
        """Variables for RUN steps; makes what they refer to in `work`/run and the shared download cache."""
        inside = recipe.INSIDE
        for name in ("pip", "uv"):
            (work / "run" / name).mkdir(parents=True)
            (self._cache / "downloads" / name).mkdir(parents=True, exist_ok=True)
        env = dict(packages) | {
            "PIP_CACHE_DIR": f"{inside}/pip",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "UV_CACHE_DIR": f"{inside}/uv",
            "UV_LINK_MODE": "copy",  # the cache is another mount, so that links cannot be made
        }
        bundle = hostconfig.certificate_bundle()
        if bundle is not None:
            shutil.copy(bundle, work / "run" / "ca-certificates.crt")
            env |= hostconfig.certificate_environment(f"{inside}/ca-certificates.crt")
        return env

    def _mounts(self, work: Path, paths: Sequence[Path]) -> list[tuple[Path, str, str]]:
        """(host path, path in RUN steps, "ro" or "rw")."""
        mounts = [(work / "run", recipe.INSIDE, "ro")]
        mounts += [(self._cache / "downloads" / name, f"{recipe.INSIDE}/{name}", "rw") for name in ("pip", "uv")]
        return mounts + [(path, str(path), "ro") for path in paths]

    def _fill(self, run: Path, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = run / name
            path.write_text(text)
            path.chmod(0o755)
        # For steps that run as another user.
        run.chmod(0o755)
        run.parent.chmod(0o755)

    async def _local_image(self, name: str, spec: ImageSpec, context: BuildContext, log: LogSink) -> str:
        if (base := spec.bases.get(name)) is not None:
            self._records.read(base)
            return f"{_TAG}:{base}"
        return await self._bases.ensure(name, log, auth=context.registry_auth, refresh=bool(spec.nonce))

    async def _record(self, image_id: str, image: str, source: dockerfile.Dockerfile, spec: ImageSpec) -> ImageConfig:
        layers = self._buildah.layers(image)
        settings = inspection.settings(
            json.loads(await self._buildah.check("inspect", "--type", "image", f"{_TAG}:{image_id}"))
        )
        base = spec.bases.get(source.final.image)
        if base is not None and not recipe.changes_files(source):
            known = self._records.read(base).config
            python = inspection.PythonInside(
                known.python_version, known.libc, known.libc_version, known.python_packages
            )
        else:
            python = await inspection.python_inside(layers, settings["env"])
        config = ImageConfig(
            **settings,
            python_version=python.version,
            libc=python.libc,
            libc_version=python.libc_version,
            python_packages=dict(python.packages or {}),
            builder_version=spec.builder_version,
        )
        self._records.write(image_id, Record(image, layers, config))
        return config


def _arguments(
    work: Path,
    variables: Mapping[str, str],
    build_args: Mapping[str, str],
    mounts: Sequence[tuple[Path, str, str]],
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(arguments of `buildah build`, environment for it). Values of variables stay out of the command line, which others can see."""
    arguments = [
        "--pull-never",
        "--layers=false",
        "--format",
        "docker",
        "--isolation",
        "chroot",
        "--omit-history",
    ]
    arguments += ["--iidfile", str(work / "image"), "--file", str(work / "Dockerfile")]
    for source, target, mode in mounts:
        arguments += ["--volume", f"{source}:{target}:{mode}"]
    env: dict[str, str] = {}
    for name, value in variables.items():
        if name in _NEVER_FROM_ENVIRONMENT or name.startswith(_NEVER_PREFIXES):
            arguments += ["--build-arg", f"{name}={value}"]
        else:
            arguments += ["--build-arg", name]
            env[name] = value
    for name, value in build_args.items():
        if name not in variables:
            arguments += ["--build-arg", f"{name}={value}"]
    return tuple(arguments), env
