"""Images, one Dockerfile per layer; a built image is a list of directories that an overlay puts together.

buildah keeps them and understands every Dockerfile. What the client itself writes (commands and copies as root on a base) is carried
out here, since that spares packing and unpacking the layer; see layering.py."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stoker.cancelling import within
from stoker.errors import FailedPrecondition, ImageBuildFailed
from stoker.images import context as build_context
from stoker.images import dockerfile, hostconfig, inspection, ownpython, plan, recipe
from stoker.images.base import BuildContext, Forget, ImageConfig, ImageSpec, Leftover, LogSink
from stoker.images.bases import BaseImages, Origin
from stoker.images.buildah import PLAIN, TAG, Buildah
from stoker.images.cachedir import default_cache
from stoker.images.client import ClientTrees
from stoker.images.indexes import IndexMirrors
from stoker.images.layering import Mount, NewLayer
from stoker.images.leftovers import Leftovers
from stoker.images.pythons import StandalonePythons, named
from stoker.images.records import Record, Records
from stoker.images.steplog import BuildahLog, Transcript

_NEVER_FROM_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "GODEBUG")
_NEVER_PREFIXES = ("LD_", "BUILDAH_", "CONTAINERS_", "STORAGE_", "XDG_", "REGISTRY_")


class BuildahImageBuilder:
    """ImageBuilder that keeps all it builds under `data`/images. Works as root on Linux only.

    Base images: `registry_mirrors` maps a registry to what stands in for it, `insecure_registries` are reached over plain HTTP,
    `base_origin` says where bases may come from. `package_indexes` maps package indexes to their mirrors (see indexes.py). `cache`
    (shared by all servers of the machine) holds what can be made again: bases made from Debian's packages, downloads of pip and uv, client
    trees. `max_seconds` is how long one build may take, 0 for as long as it likes."""

    def __init__(
        self,
        data: Path,
        *,
        registry_mirrors: Mapping[str, str] | None = None,
        insecure_registries: Sequence[str] = (),
        base_origin: Origin = "auto",
        package_indexes: Mapping[str, str] | None = None,
        cache: Path | None = None,
        base_refresh_days: float = 30.0,
        python_mirror: str = "",
        max_seconds: float = 3600.0,
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
            refresh_days=base_refresh_days,
        )
        self._indexes = IndexMirrors(package_indexes or {})
        self._clients = ClientTrees(self._cache, self._records)
        self._pythons = StandalonePythons(self._directory / "pythons", self._cache, mirror=python_mirror)
        self._max_seconds = max_seconds
        self._leftovers = Leftovers(self._buildah, self._records, self._pythons)
        self._max_builds, self._under_way = max_builds, 0
        self._slots = asyncio.Semaphore(max_builds)

    async def open(self) -> None:
        """Prepares the storage and removes what a killed server left. Raises FailedPrecondition when buildah cannot be used here."""
        await self._buildah.open()
        await asyncio.to_thread(shutil.rmtree, self._work, True)
        self._work.mkdir(parents=True)

    async def build(self, image_id: str, spec: ImageSpec, context: BuildContext, log: LogSink) -> ImageConfig:
        written = dockerfile.parse(spec.commands, spec.build_args)
        for index, mirror in self._indexes.used(written).items():
            log(f"Note: {mirror} stands in for the package index {index}.\n")
        source = self._indexes.apply(written)
        async with self._slots:
            # A semaphore's turn may be long in coming, and does not count.
            job = _Job(image_id, spec, context, source, log)
            self._under_way += 1
            try:
                return await within(self._build(job), self._max_seconds or None)
            except TimeoutError:
                limit = (
                    f"It took longer than {self._max_seconds:g} s (the setting `image_build_seconds`), and was ended."
                )
                raise ImageBuildFailed(job.failure(None, limit)) from None
            finally:
                self._under_way -= 1

    async def _build(self, job: _Job) -> ImageConfig:
        async with self._workspace() as work:
            job.work = work
            if (python := named(job.context.mount_name)) is not None:
                tree = await self._pythons.tree(python, job.log)
                job.context = replace(job.context, mount_tree=tree)
            sources = hostconfig.package_sources()
            job.variables = self._run_environment(work, sources.environment)
            job.mounts = self._mounts(work, (*sources.paths, *self._indexes.paths))
            job.source = await self._with_python(job)
            image = await self._by_layering(job) or await self._by_buildah(job)
        return await self._record(job.image_id, image, job.source, job.spec)

    async def _with_python(self, job: _Job) -> dockerfile.Dockerfile:
        """What is to be built; with steps that add a Python where a base without one is taken as it is."""
        final = job.source.final
        if final.image == "scratch" or final.image in job.spec.bases or recipe.changes_files(job.source):
            return job.source
        base = await self._local_image(final.image, job)
        layers = self._buildah.layers(base)
        if not ownpython.possible(layers):
            return job.source
        settings = inspection.known_settings(await self._buildah.settings(base))
        found = await inspection.python_inside(layers, settings["env"])
        return job.source if found.version else ownpython.added(job.source)

    async def _by_layering(self, job: _Job) -> str:
        """Builds without packing and unpacking the layer; empty when this image needs buildah."""
        spec, source = job.spec, job.source
        if len(source.stages) != 1 or source.final.image == "scratch" or not recipe.changes_files(source):
            return ""
        base = self._buildah.id_of(await self._local_image(source.final.image, job))
        steps = plan.make(source, await self._buildah.settings(base), spec.build_args)
        if steps is None or not NewLayer.suits(self._buildah.layers(base)):
            return ""
        self._fill(job.work / "run", {**steps.scripts, recipe.COMPILE: recipe.COMPILE_SOURCE})
        tree = await job.tree({})
        layer = NewLayer(self._buildah, base, job.work)
        transcript = Transcript(len(steps.steps) + 1, job.log)
        job.failure = transcript.failure
        transcript.begin(f"FROM {source.final.image}")
        images = {image: await self._bases.uv_file(image) for image in steps.images}
        secrets = job.context.secret_env
        await layer.carry_out(
            steps, transcript, context=tree, images=images, mounts=job.mounts, defaults=job.variables, secrets=secrets
        )
        if steps.environment:
            await layer.compile(steps.environment, job.started, job.mounts)
        return await layer.seal(steps.settings, spec.build_args, f"{TAG}:{job.image_id}")

    async def _by_buildah(self, job: _Job) -> str:
        async def resolve(name: str) -> str:
            return await self._local_image(name, job)

        variables = job.variables | dict(job.context.secret_env)
        steps = await recipe.write(job.source, resolve, variables, job.started)
        self._fill(job.work / "run", steps.run_files)
        tree = await job.tree(steps.context_files)
        file, result = job.work / "Dockerfile", job.work / "image"
        file.write_text(steps.text)
        output = BuildahLog(steps, job.log)
        job.failure = output.transcript.failure
        arguments, env = _arguments(variables, job.spec.build_args, job.mounts)
        arguments += ("--iidfile", str(result), "--file", str(file), "--tag", f"{TAG}:{job.image_id}", str(tree))
        code = await self._buildah.build(arguments, env=env, line=output)
        if code:
            raise ImageBuildFailed(output.failure(code))
        return result.read_text().removeprefix("sha256:")

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        return self._records.read(image_id).layers

    async def client_layers(self, client_version: str, config: ImageConfig) -> tuple[Path, ...]:
        return await self._clients.layers(client_version, config)

    async def remove(self, image_id: str) -> None:
        """Forgets the image; layers that other images are built on stay. No error when it does not exist."""
        await self._leftovers.remove_image(image_id)

    async def collect(self, keep: Collection[str], before: float, forget: Forget | None) -> Sequence[Leftover]:
        if forget is None:
            return await asyncio.to_thread(self._leftovers.find, keep, before)
        if self._under_way:
            raise FailedPrecondition("Images are being built on this server; free its disk when that has ended.")
        async with contextlib.AsyncExitStack() as held:
            for _ in range(self._max_builds):
                await held.enter_async_context(self._slots)
            found = await asyncio.to_thread(self._leftovers.find, keep, before)
            gone = [item for item in found if await self._leftovers.remove(item, forget)]
            await self._leftovers.prune()
        return gone

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
        trusted = f"{packages.get('PIP_TRUSTED_HOST', '')} {self._indexes.plain_hosts}".strip()
        env = (
            dict(packages)
            | ({"PIP_TRUSTED_HOST": trusted} if trusted else {})
            | {
                "PIP_CACHE_DIR": f"{inside}/pip",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_ROOT_USER_ACTION": "ignore",
                "UV_CACHE_DIR": f"{inside}/uv",
                "UV_LINK_MODE": "copy",  # the cache is another mount, so that links cannot be made
            }
        )
        bundle = hostconfig.certificate_bundle()
        if bundle is not None:
            shutil.copy(bundle, work / "run" / "ca-certificates.crt")
            env |= hostconfig.certificate_environment(f"{inside}/ca-certificates.crt")
        return env

    def _mounts(self, work: Path, paths: Sequence[Path]) -> list[Mount]:
        mounts: list[Mount] = [(work / "run", recipe.INSIDE, "ro")]
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

    async def _local_image(self, name: str, job: _Job) -> str:
        if (base := job.spec.bases.get(name)) is not None:
            self._records.read(base)
            return f"{TAG}:{base}"
        if name not in job.brought:
            refresh = bool(job.spec.nonce)
            job.brought[name] = await self._bases.ensure(name, job.log, auth=job.context.registry_auth, refresh=refresh)
        return job.brought[name]

    async def _record(self, image_id: str, image: str, source: dockerfile.Dockerfile, spec: ImageSpec) -> ImageConfig:
        layers = self._buildah.layers(image)
        settings = inspection.known_settings(await self._buildah.settings(image))
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


@dataclass
class _Job:
    """One build on its way."""

    image_id: str
    spec: ImageSpec
    context: BuildContext
    source: dockerfile.Dockerfile
    log: LogSink
    work: Path = Path()  # its own directory, while it is there
    failure: Callable[[int | None, str], str] = lambda code, reason: f"The image could not be built. {reason}"
    variables: dict[str, str] = field(default_factory=dict)  # of the host, for RUN steps
    mounts: list[Mount] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    brought: dict[str, str] = field(default_factory=dict)  # base image -> the local one, asked for once per build

    async def tree(self, more: Mapping[str, bytes]) -> Path:
        """The build context, with the files `more`."""
        files = {**self.spec.context_files, **more}
        return await asyncio.to_thread(build_context.materialise, self.work / "context", files, self.context.mount_tree)


def _arguments(
    variables: Mapping[str, str], build_args: Mapping[str, str], mounts: Sequence[Mount]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(arguments of `buildah build`, environment for it). Values of variables stay out of the command line, which others can see."""
    arguments = [*PLAIN, "--omit-history"]
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
