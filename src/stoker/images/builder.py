"""Images, one Dockerfile per layer; a built image is a list of directories that an overlay puts together.

Base images come by buildah, which keeps them. All that a Dockerfile adds is made here, a layer per image: plan.py says what its steps are,
layer.py carries them out, and nothing of an image is ever run with the host in reach."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from stoker.aio.cancelling import within
from stoker.errors import FailedPrecondition, ImageBuildFailed
from stoker.images import context as build_context
from stoker.images import dockerfile, finish, hostconfig, ownpython, plan
from stoker.images.base import BuildContext, LogSink
from stoker.images.bases import BaseImages, Origin
from stoker.images.buildah import Buildah
from stoker.images.cachedir import default_cache
from stoker.images.client import ClientTrees
from stoker.images.compilers import Compilers
from stoker.images.indexes import IndexMirrors, moved, plain_servers
from stoker.images.layer import NewLayer, Surroundings, no_origins, tidy
from stoker.images.layer_sums import LayerSums
from stoker.images.layerstore import LayerStore
from stoker.images.leftovers import Leftovers
from stoker.images.pythons import StandalonePythons
from stoker.images.records import Record, Records
from stoker.images.steplog import Transcript
from stoker.nodes.builds import ImageConfig, ImageSpec, Leftover
from stoker.nodes.pythons import named
from stoker.runtime.steps import StepMount, StepRunner


class LayeredImageBuilder:
    """ImageBuilder that keeps all it builds under `data`/images. Works as root on Linux only.

    `steps` runs the commands of images. Base images: `registry_mirrors` maps a registry to what stands in for it, `insecure_registries` are
    reached over plain HTTP, `base_origin` says where bases may come from. `package_indexes` maps package indexes to their mirrors (see
    indexes.py). `cache` (shared by all servers of the machine) holds what can be made again: bases made from Debian's packages, downloads of
    pip and uv, client trees. `max_seconds` is how long one build may take, 0 for as long as it likes."""

    def __init__(
        self,
        data: Path,
        steps: StepRunner,
        *,
        registry_mirrors: Mapping[str, str] | None = None,
        insecure_registries: Sequence[str] = (),
        base_origin: Origin = "auto",
        package_indexes: Mapping[str, str] | None = None,
        cache: Path | None = None,
        base_refresh_days: float = 30.0,
        python_mirror: str = "",
        max_seconds: float = 3600.0,
    ) -> None:
        self._directory = data / "images"
        self._cache = cache or default_cache()
        self._steps = steps
        self._store = LayerStore(self._directory)
        self._buildah = Buildah(self._directory)
        self._records = Records(self._directory / "built")
        self._sums = LayerSums(self._directory)
        self._bases = BaseImages(
            self._buildah,
            self._store,
            steps,
            self._cache,
            mirrors=registry_mirrors or {},
            insecure=insecure_registries,
            origin=base_origin,
            refresh_days=base_refresh_days,
        )
        self._indexes = IndexMirrors(package_indexes or {})
        self._pythons = StandalonePythons(self._directory / "pythons", self._cache, mirror=python_mirror)
        self._clients = ClientTrees(self._cache)
        self._compilers = Compilers(self._buildah, self._store, self._records, self._pythons, steps)
        self._max_seconds = max_seconds
        self._leftovers = Leftovers(self._buildah, self._store, self._records, self._pythons)
        self._under_way = 0
        self._collecting = asyncio.Lock()

    async def open(self) -> None:
        """Prepares the storage and removes what a killed server left. Raises FailedPrecondition when buildah cannot be used here."""
        await self._buildah.open()
        await asyncio.to_thread(self._store.open)
        await self._look_after_sums()

    async def build(self, image_id: str, spec: ImageSpec, context: BuildContext, log: LogSink) -> ImageConfig:
        written = dockerfile.parse(spec.commands, spec.build_args)
        for index, mirror in self._indexes.used(written).items():
            log(f"Note: {mirror} stands in for the package index {index}.\n")
        async with self._collecting:
            self._under_way += 1
        job = _Job(spec, context, written, log)
        try:
            image = await within(self._build(job), self._max_seconds or None)
        except TimeoutError:
            limit = f"It took longer than {self._max_seconds:g} s (the setting `image_build_seconds`), and was ended."
            raise ImageBuildFailed(job.transcript.failure(None, limit)) from None
        finally:
            self._under_way -= 1
        self._note(image_id, Record(image.layers, image.config))
        return image.config

    async def adopt(self, image_id: str, spec: ImageSpec, files: Path | None, log: LogSink) -> ImageConfig:
        async with self._collecting:
            self._under_way += 1
        try:
            base = self._records.read(spec.bases["base"])
            layers, config = base.layers, base.config
            if files is not None:
                async with self._store.workspace() as work:
                    upper, config = await self._adopted(files, work, base)
                    layers = (self._store.keep(upper), *layers)
        finally:
            self._under_way -= 1
        config = replace(config, builder_version=spec.builder_version)
        self._note(image_id, Record(layers, config))
        return config

    async def _adopted(self, files: Path, work: Path, base: Record) -> tuple[Path, ImageConfig]:
        """The layer that `files` make on `base`, and the settings of the image with it."""
        (work / "layer").mkdir()
        (work / "run").mkdir()
        (work / "run" / finish.FILE).write_text(finish.SOURCE)
        files.rename(work / "layer" / "upper")
        # A container's own; they come anew in each.
        await tidy(work / "layer" / "upper")
        around = Surroundings(work / "run", work / "caches", (StepMount(plan.INSIDE, (work / "run",)),), confined=True)
        layer = NewLayer(self._steps, work / "layer", base.layers, around, no_origins)
        python = await finish.finish(layer, base.config.env, compile_since=None)
        return layer.upper, python.added_to(base.config)

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        return self._records.read(image_id).layers

    async def client_layers(self, client_version: str, image_id: str, config: ImageConfig) -> tuple[Path, ...]:
        return await self._clients.layers(
            client_version, config, lambda python: self._compilers.find(python, self._records.read(image_id).layers)
        )

    async def remove(self, image_id: str) -> None:
        """Forgets the image; layers that other images are built on stay. No error when it does not exist."""
        await self._leftovers.remove_image(image_id)

    async def leftovers(self, keep: Collection[str], before: float) -> Sequence[Leftover]:
        return await asyncio.to_thread(self._leftovers.find, keep, before)

    async def free(self, item: Leftover) -> bool:
        async with self._alone():
            return await self._leftovers.remove(item)

    async def tidy(self) -> None:
        async with self._alone():
            await self._leftovers.prune()

    async def close(self) -> None:
        """No layer is held, for they are plain directories."""
        await self._sums.close()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """While it lasts no image is built. Raises FailedPrecondition when one is."""
        async with self._collecting:
            if self._under_way:
                raise FailedPrecondition("Images are being built on this server; free its disk when that has ended.")
            yield

    async def _look_after_sums(self) -> None:
        """Digests of layers come and go with the layers, also with those of which a killed server made none any more."""
        layers = await asyncio.to_thread(self._layers_in_use)
        await asyncio.to_thread(self._sums.forget_removed, layers)
        self._sums.want(layers)

    def _note(self, image_id: str, record: Record) -> None:
        self._records.write(image_id, record)
        self._sums.want(record.layers)

    def _layers_in_use(self) -> set[Path]:
        return {layer for _, _, record in self._records.entries() for layer in record.layers}

    async def _build(self, job: _Job) -> _Made:
        async with self._store.workspace() as work:
            await self._prepare(job, work)
            await self._add_python(job)
            stages = job.source.stages
            needed = _needed(job.source)
            job.transcript = Transcript(sum(1 + len(stages[index].instructions) for index in needed), job.log)
            for index in needed:
                job.made[index] = await self._stage(job, index, work / f"stage-{index}")
            made = job.made[len(stages) - 1]
            if made.is_new:
                made = replace(made, layers=(self._store.keep(made.layers[0]), *made.layers[1:]))
        return replace(made, config=replace(made.config, builder_version=job.spec.builder_version))

    async def _prepare(self, job: _Job, work: Path) -> None:
        """Gathers what the steps see beside their image."""
        context = job.context
        if (python := named(context.mount_name)) is not None:
            context = replace(context, mount_tree=await self._pythons.tree(python, job.log))
        tree = await asyncio.to_thread(
            build_context.materialise, work / "context", job.spec.context_files, context.mount_tree
        )
        sources = hostconfig.package_sources()
        plain = self._indexes.plain_hosts | plain_servers(" ".join(sources.environment.values()))
        elsewhere = await self._steps.reachable(plain)
        job.source = self._indexes.apply(job.source, elsewhere)
        packages = {name: moved(value, elsewhere) for name, value in sources.environment.items()}
        trusted = {*packages.get("PIP_TRUSTED_HOST", "").split(), *self._indexes.plain_hosts, *elsewhere.values()}
        if trusted:
            packages["PIP_TRUSTED_HOST"] = " ".join(sorted(trusted))
        job.run = work / "run"
        mounts = [StepMount(plan.INSIDE, (job.run,))]
        for name in ("pip", "uv"):
            (job.run / name).mkdir(parents=True)
            kept = self._cache / "downloads" / name
            kept.mkdir(parents=True, exist_ok=True)
            # A package that a container's build put there would be installed by others.
            mounts.append(StepMount(f"{plan.INSIDE}/{name}", (kept,), access="scratch" if context.confined else "rw"))
        mounts += [StepMount(str(path), (path,)) for path in (*sources.paths, *self._indexes.paths)]
        (job.run / finish.FILE).write_text(finish.SOURCE)
        job.around = Surroundings(
            context=tree,
            caches=self._cache / "mounts",
            mounts=tuple(mounts),
            defaults=_variables(job.run, packages),
            secrets=context.secret_env,
            confined=context.confined,
        )

    async def _add_python(self, job: _Job) -> None:
        """Adds steps that install a Python where a base without one is taken as it is."""
        final = job.source.final
        if len(job.source.stages) > 1 or final.image == "scratch" or final.image in job.spec.bases:
            return
        if any(step.keyword in ("RUN", "COPY", "ADD") for step in final.instructions):
            return
        base = await self._base(job, final.image)
        if not base.config.python_version and ownpython.possible(base.layers):
            job.source = ownpython.added(job.source)

    async def _stage(self, job: _Job, index: int, work: Path) -> _Made:
        stage = job.source.stages[index]
        is_final = stage is job.source.final
        job.transcript.begin(f"FROM {stage.image}")
        base = await self._base(job, stage.image)
        steps = _client_environment(job, base.config) or plan.make(
            stage, base.config, job.spec.build_args, job.source.arguments
        )
        for name, text in steps.scripts.items():
            (job.run / name).write_text(text)
        layer = NewLayer(self._steps, work, base.layers, job.around, lambda name: self._origin(job, name))
        await layer.carry_out(steps, job.transcript)
        if not steps.changes_files:
            return _Made(base.layers, steps.config, base.is_new)
        config = steps.config
        if is_final:
            since = job.started if steps.runs else None
            config = (await finish.finish(layer, config.env, compile_since=since)).added_to(config)
        return _Made((layer.upper, *base.layers), config, is_new=True)

    async def _base(self, job: _Job, name: str) -> _Made:
        """What FROM means by `name`."""
        if (earlier := job.stage(name)) is not None:
            return earlier
        if name == "scratch":
            return _Made((), ImageConfig())
        if name in job.spec.bases:
            record = self._records.read(job.spec.bases[name])
            return _Made(record.layers, record.config)
        if name not in job.brought:
            base = await self._bases.ensure(
                name,
                job.log,
                auth=job.context.registry_auth,
                refresh=bool(job.spec.nonce),
                confined=job.context.confined,
            )
            job.brought[name] = _Made(base.layers, base.config)
        return job.brought[name]

    async def _origin(self, job: _Job, name: str) -> tuple[Path, ...]:
        """The layers that --from means by `name`."""
        return (await self._base(job, name)).layers


@dataclass(frozen=True)
class _Made:
    """The result of a stage, or what one is built on. is_new: whether the first of its layers was made by this build."""

    layers: tuple[Path, ...]
    config: ImageConfig
    is_new: bool = False


@dataclass
class _Job:
    """One build on its way."""

    spec: ImageSpec
    context: BuildContext
    source: dockerfile.Dockerfile
    log: LogSink
    run: Path = Path()  # the build's own directory as steps see it
    around: Surroundings = field(default_factory=lambda: Surroundings(Path(), Path()))
    transcript: Transcript = field(default_factory=lambda: Transcript(0, lambda text: None))
    started: float = field(default_factory=time.time)
    made: dict[int, _Made] = field(default_factory=dict)  # by the number of the stage
    brought: dict[str, _Made] = field(default_factory=dict)  # base images, asked for once per build

    def stage(self, name: str) -> _Made | None:
        """The earlier stage of that name or number."""
        for index in sorted(self.made, reverse=True):
            if name.lower() in (str(index), self.source.stages[index].name.lower() or None):
                return self.made[index]
        return None


def _variables(run: Path, packages: Mapping[str, str]) -> dict[str, str]:
    """What RUN steps see of the host's ways to packages; puts what that refers to into `run`."""
    env = {
        **packages,
        "PIP_CACHE_DIR": f"{plan.INSIDE}/pip",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "UV_CACHE_DIR": f"{plan.INSIDE}/uv",
        "UV_LINK_MODE": "copy",  # the cache is another mount, so that links cannot be made
    }
    bundle = hostconfig.certificate_bundle()
    if bundle is not None:
        shutil.copy(bundle, run / "ca-certificates.crt")
        env |= hostconfig.certificate_environment(f"{plan.INSIDE}/ca-certificates.crt")
    return env


def _needed(source: dockerfile.Dockerfile) -> list[int]:
    """The stages that the last one is made of, by their numbers."""
    needed, waiting = set[int](), [len(source.stages) - 1]
    while waiting:
        index = waiting.pop()
        needed.add(index)
        stage = source.stages[index]
        for name in {stage.image.lower(), *(origin.lower() for origin in plan.origins(stage, source.arguments))}:
            for earlier in range(index - 1, -1, -1):
                if name in (str(earlier), source.stages[earlier].name.lower() or None):
                    waiting.append(earlier)
                    break
    return sorted(needed)


def _client_environment(job: _Job, base: ImageConfig) -> plan.Plan | None:
    """The plan of what is exactly the client's `Image.env({...})`."""
    environment = dockerfile.client_environment(job.spec.commands)
    if environment is None:
        return None
    env = dict(base.env)
    for name, value in environment.items():
        env[name] = dockerfile.filled_in(value, {"PATH": plan.DEFAULT_PATH, **env})
    steps = [plan.Step(instruction, plan.Setting()) for instruction in job.source.final.instructions]
    return plan.Plan(replace(base, env=env), steps)
