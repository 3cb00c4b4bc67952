"""Images: each distinct layer is built once, its log streamed to everyone who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import sqlalchemy as sa
import structlog

from stoker.aio.bell import Bell
from stoker.aio.cancelling import finished
from stoker.aio.jobs import Jobs
from stoker.core.build_queue import Action, BuildQueue, End
from stoker.errors import FailedPrecondition, NotFound, StokerError
from stoker.ids import content_id, new_id
from stoker.nodes.base import Builds
from stoker.nodes.builds import ContextRef, ImageConfig, ImageSpec
from stoker.services.images.layer_checks import no_check
from stoker.store import tables
from stoker.store.database import Change, Database

BUILDING, READY, FAILED = "building", "ready", "failed"
_PATIENCE = 30.0  # seconds that builds have to end when the server stops
_KEEP_LOG = 1 << 20  # characters of a build log that are stored
_INTERRUPTED = "The server stopped during the build. Run or deploy the app again: it then begins anew."
_log = structlog.get_logger(__name__)

ContextMaker = Callable[[ImageSpec], Awaitable[ContextRef]]
"""Gathers what a build needs beside the spec: the context mount, secret values, registry credentials."""


@dataclass(frozen=True)
class Step:
    """One layer of an image and its build. Seconds since the epoch."""

    image_id: str
    started_at: float
    finished_at: float


@dataclass
class Image:
    """One image as it is in memory: its state, its build if there is one, and the log of that. Made by `Images`."""

    id: str
    state: str
    config: ImageConfig | None = None
    error: str = ""
    log: list[str] = field(default_factory=list)
    news: Bell = field(default_factory=Bell)  # rings when there is more of the log, or the build is over
    job: asyncio.Task[None] | None = None
    turn: asyncio.Future[None] | None = None  # done when it has a slot
    told: tuple[str, ...] = ()  # the builds of which its log says that they hold the slots
    ended: str = ""  # why the server ended the build, a sentence

    @property
    def step(self) -> str:
        """The step that the build has come to, as its log says."""
        return next((text.strip() for text in reversed(self.log) if text.startswith("Step ")), "")

    def write(self, text: str) -> None:
        """Adds to the log of its build."""
        self.log.append(text)
        self.news.ring()


@dataclass(frozen=True)
class FunctionRun:
    """A function that makes a layer: created for this, with its input as containers get it. `invocation`: the kind of its call on the wire."""

    function_id: str
    payload: bytes
    invocation: int


@dataclass(frozen=True)
class BuildView:
    """A build as others see it. `asked_at` in seconds since the epoch; `watched`: whether somebody waits for it."""

    image_id: str
    running: bool
    step: str
    asked_at: float
    watched: bool
    by_container: bool


class FunctionRunner(Protocol):
    """See services/calls/function_builds.py."""

    async def run(self, run: FunctionRun, write: Callable[[str], None]) -> str: ...


class Images:
    """All images that were asked for, with their builds and a queue for those. Made by the composition root; asked by the RPCs of images, and
    by whoever starts containers."""

    def __init__(self, database: Database, builds: Builds, *, slots: int = 2) -> None:
        """slots: how many images are built at once."""
        self._database = database
        self._builds = builds
        self.running: Callable[[], Collection[str]] = tuple
        """The images from which containers run now."""
        self.check_layers: Callable[[str], Awaitable[None]] = no_check
        """See `LayerChecks.check`."""
        self.function_builds: FunctionRunner
        """Runs functions that make layers; set when calls can be made."""
        self._images: dict[str, Image] = {}
        self._jobs = Jobs("images")
        self._queue = BuildQueue(slots)
        self._timer: asyncio.TimerHandle | None = None

    async def ensure(
        self,
        spec: ImageSpec,
        make_context: ContextMaker,
        *,
        force: bool = False,
        confined: bool = False,
        function: FunctionRun | None = None,
    ) -> Image:
        """The image for a layer: known at once when it was built before, else being built when this returns.

        A failed build is tried again when it is asked for again. confined: whether a container asks for it. function: what makes the
        layer, when that is no command. Raises Damaged when the image, or one that it is built on, is."""
        await self._check_bases(spec)
        if force:
            spec = _renewed(spec)
        image_id = content_id("im", spec.fingerprint())
        image = self._find(image_id)
        if image is not None and image.state == READY:
            await self.check_layers(image_id)
            if not await self._is_there(image_id):
                image.state = FAILED
            image = self._find(image_id)  # another caller may have begun to build it meanwhile
        if image is None or image.state == FAILED:
            # Nothing is awaited in between: who asks for it next must find this build and not begin a second one.
            image = Image(image_id, BUILDING)
            self._images[image_id] = image
            image.turn = asyncio.get_running_loop().create_future()
            image.job = self._jobs.start(f"build {image_id}", self._build(image, spec, make_context, function))
            image.job.add_done_callback(lambda _: self._over(image))
            if function is None:
                self._apply(self._queue.ask(time.time(), image_id, confined=confined))
            else:
                image.turn.set_result(None)  # it takes the resources of a container instead
        return image

    def get(self, image_id: str) -> Image:
        """Raises NotFound."""
        image = self._find(image_id)
        if image is None:
            raise NotFound(f"Could not find image with ID {image_id!r} on this server; it may have been deleted.")
        return image

    def config(self, image_id: str) -> ImageConfig:
        """Raises NotFound, or FailedPrecondition when the image is not built."""
        image = self.get(image_id)
        if image.config is None:
            raise FailedPrecondition(f"The image {image_id} is not built ({image.state}). {image.error}".strip())
        return image.config

    async def follow(self, image_id: str, after: int, timeout: float) -> AsyncIterator[tuple[int, str]]:
        """Pieces of the build log from position `after` on, with the position that follows each, until the build ends or time is over."""
        image = self.get(image_id)
        self._queue.watch(time.time(), image_id)
        try:
            async for piece in self._follow(image, after, timeout):
                yield piece
        finally:
            self._queue.unwatch(time.time(), image_id)
            self._apply(self._queue.check(time.time()))

    async def _follow(self, image: Image, after: int, timeout: float) -> AsyncIterator[tuple[int, str]]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            while after < len(image.log):
                piece = "".join(image.log[after:])
                after = len(image.log)
                yield after, piece
            if image.state != BUILDING:
                return
            if not await image.news.wait(deadline - loop.time()):
                return

    def builds(self) -> list[BuildView]:
        """Those that run or wait, in the order in which they were asked for."""
        return [
            BuildView(b.id, b.running, self._images[b.id].step, b.asked_at, b.watchers > 0, b.confined)
            for b in self._queue.builds.values()
        ]

    async def cancel(self, image_id: str) -> None:
        """Ends a build; returns when it has ended. Raises NotFound when there is none."""
        image = self._images.get(image_id)
        if image is None or image.job is None:
            raise NotFound(f"There is no build of an image {image_id!r} under way.")
        await finished(self._end(image, "The build was cancelled."))

    def steps(self, image_id: str) -> list[Step]:
        """The layers of an image that were built here, its base first. Raises NotFound."""
        self.get(image_id)
        found: list[Step] = []
        with self._database.read() as connection:
            while image_id:
                row = connection.execute(sa.select(tables.images).where(tables.images.c.id == image_id)).first()
                if row is None:
                    break
                found.insert(0, Step(row.id, row.created_at, row.built_at or time.time()))
                image_id = next(iter(json.loads(row.spec)["bases"].values()), "")
        return found

    def build_log(self, image_id: str) -> tuple[float, str]:
        """When the build of an image began, and what it wrote (the end of it, when it was very long). Raises NotFound."""
        image = self.get(image_id)
        with self._database.read() as connection:
            query = sa.select(tables.images.c.created_at).where(tables.images.c.id == image_id)
            started: float = connection.execute(query).scalar() or 0.0
        return started, "".join(image.log)

    async def delete(self, image_id: str) -> None:
        """Forgets an image and frees its layers: no container starts from it again.

        A build of it is ended first. Raises NotFound, or FailedPrecondition while containers run from it."""
        image = self._find(image_id)
        if image is None:
            raise NotFound(f"No Image with ID {image_id!r} is on this server.")
        if image.job is not None:
            await self.cancel(image_id)
        if image_id in self.running():
            raise FailedPrecondition(f"Containers run from the image {image_id}. Delete it when they have ended.")
        await self.forget(image_id)
        await self._builds.remove(image_id)

    async def forget(self, image_id: str) -> bool:
        """Lets no container start from an image again, and builds it anew when it is asked for; False when it is just being built."""
        image = self._find(image_id)
        if image is not None and image.job is not None:
            return False

        def then(_: object) -> None:
            if image is not None and self._images.get(image_id) is image:
                del self._images[image_id]

        statement = sa.delete(tables.images).where(tables.images.c.id == image_id)
        with _withdrawn(image):
            await self._database.write(Change(lambda connection: connection.execute(statement), then))
        return True

    def bases(self, image_ids: Collection[str]) -> set[str]:
        """These images and all that they are built on."""
        found: set[str] = set()
        waiting = set(image_ids)
        with self._database.read() as connection:
            while waiting:
                found |= waiting
                rows = connection.execute(sa.select(tables.images.c.spec).where(tables.images.c.id.in_(waiting)))
                waiting = {base for row in rows for base in json.loads(row.spec)["bases"].values()} - found
        return found

    async def close(self) -> None:
        """Stops builds under way; they begin anew when asked for again."""
        if self._timer is not None:
            self._timer.cancel()
        for image in self._images.values():
            if image.job is not None:
                image.job.cancel()
        await self._jobs.close(patience=_PATIENCE)
        await self._builds.close()

    def build_output(self, image_id: str, text: str) -> None:
        """Event: a build has written text."""
        image = self._images.get(image_id)
        if image is not None:
            image.write(text)

    async def _run_function(self, image: Image, spec: ImageSpec, function: FunctionRun) -> ImageConfig:
        try:
            task_id = await self.function_builds.run(function, image.write)
            return await self._builds.adopt(image.id, spec, task_id, function.function_id)
        finally:
            await finished(self._builds.drop_kept(function.function_id))

    async def _build(
        self, image: Image, spec: ImageSpec, make_context: ContextMaker, function: FunctionRun | None
    ) -> None:
        started = time.monotonic()
        state, error, config = FAILED, _INTERRUPTED, None
        try:
            await self._record(image, spec)
            assert image.turn is not None
            await image.turn
            if function is not None:
                config = await self._run_function(image, spec, function)
            else:
                config = await self._builds.build(image.id, spec, await make_context(spec))
            # Noted before anybody hears of it: what runs from it must start again after a restart.
            await self._jobs.insist(f"note that {image.id} is built", partial(self._store, image, READY, config, ""))
            state, error = READY, ""
        except asyncio.CancelledError:
            error = image.ended or _INTERRUPTED
            if not image.ended:
                raise
        except StokerError as failure:
            error = str(failure)
        except Exception as failure:
            _log.exception("image build failed", image=image.id)
            error = f"The build failed inside the server: {type(failure).__name__}: {failure}"
        finally:
            image.state, image.error, image.config = state, error, config if state == READY else None
            self._over(image)
            _log.info("image built", image=image.id, state=image.state, seconds=round(time.monotonic() - started, 2))
        if image.state == FAILED:
            self._jobs.start(f"note that {image.id} is not built", self._store(image, FAILED, None, error))

    def _over(self, image: Image) -> None:
        """A build has ended, even before it began."""
        image.job = None
        if image.state == BUILDING:
            image.state, image.error = FAILED, image.ended or _INTERRUPTED
        image.news.ring()
        if image.id in self._queue.builds:
            self._apply(self._queue.ended(time.time(), image.id))

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            image = self._images[action.id]
            if isinstance(action, End):
                image.ended = action.reason
                if image.job is not None:
                    image.job.cancel()
            elif image.turn is not None and not image.turn.done():
                image.turn.set_result(None)
        self._tell_waiting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._queue.next_check(time.time())
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(due + 0.01, lambda: self._apply(self._queue.check(time.time())))

    def _tell_waiting(self) -> None:
        """Says in the logs of builds that wait what holds the slots: minutes without a word look like a server that hangs."""
        views = self.builds()
        running = [view for view in views if view.running]
        names = tuple(view.image_id for view in running)
        for view in views:
            image = self._images[view.image_id]
            if view.running and image.told:
                image.told = ()
                image.write("Its turn has come.\n")
            elif not view.running and image.told != names:
                image.told = names
                image.write(_waiting(running, self._queue.ahead_of(image.id)))

    async def _end(self, image: Image, reason: str) -> None:
        image.ended = reason
        if (job := image.job) is not None:
            job.cancel()
            await asyncio.wait([job])

    async def _is_there(self, image_id: str) -> bool:
        """Whether an image that was built still has its files."""
        return await self._builds.has(image_id)

    async def _check_bases(self, spec: ImageSpec) -> None:
        for tag, image_id in spec.bases.items():
            base = self._find(image_id)
            if base is None or base.state != READY:
                raise FailedPrecondition(
                    f"The layer is based on {tag!r}, the image {image_id}, which is not built on this server."
                )
            await self.check_layers(image_id)

    def _find(self, image_id: str) -> Image | None:
        image = self._images.get(image_id)
        if image is None:
            with self._database.read() as connection:
                row = connection.execute(sa.select(tables.images).where(tables.images.c.id == image_id)).first()
            if row is None:
                return None
            # One that is being built and not in memory is what the last server did not finish.
            state, error = (row.state, row.error) if row.state != BUILDING else (FAILED, _INTERRUPTED)
            config = ImageConfig.from_json(row.config) if row.config else None
            image = Image(row.id, state, config, error, [row.log] if row.log else [])
            self._images[image_id] = image
        return image

    async def _record(self, image: Image, spec: ImageSpec) -> None:
        def write(connection: sa.Connection) -> None:
            connection.execute(sa.delete(tables.images).where(tables.images.c.id == image.id))
            values = {"id": image.id, "spec": spec.fingerprint(), "state": image.state, "created_at": time.time()}
            connection.execute(sa.insert(tables.images).values(**values))

        await self._database.write(write)

    async def _store(self, image: Image, state: str, config: ImageConfig | None, error: str) -> None:
        values = {
            "state": state,
            "config": config.to_json() if config else "",
            "error": error,
            "log": "".join(image.log)[-_KEEP_LOG:],
            "built_at": time.time(),
        }
        statement = sa.update(tables.images).where(tables.images.c.id == image.id).values(**values)
        await self._database.write(lambda connection: connection.execute(statement))


@contextlib.contextmanager
def _withdrawn(image: Image | None) -> Iterator[None]:
    """Nothing starts from the image from now on, unless it is found that it cannot be forgotten."""
    if image is None:
        yield
        return
    before = image.state, image.config, image.error
    image.state, image.config, image.error = FAILED, None, "It was removed from this server."
    try:
        yield
    except BaseException:
        image.state, image.config, image.error = before
        raise


def _waiting(running: Collection[BuildView], before: int) -> str:
    ahead = f", and {before} more wait{'s' if before == 1 else ''} for their turn before it" if before else ""
    lines = [f"Waiting for a free slot: {len(running)} images are being built{ahead}.\n"]
    for view in running:
        minutes, seconds = divmod(int(time.time() - view.asked_at), 60)
        lines.append(f"  {view.image_id}, for {minutes}:{seconds:02} min: {view.step or 'at its beginning'}\n")
    return "".join(lines)


def _renewed(spec: ImageSpec) -> ImageSpec:
    return replace(spec, nonce=new_id("im"))
