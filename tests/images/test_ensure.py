"""Which images are built, and how often: the service on a real database, with a builder that only counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core import build_queue
from stoker.errors import Damaged, FailedPrecondition, NotFound
from stoker.nodes.builds import ContextRef, ImageConfig, ImageSpec
from stoker.services.images.images import FAILED, READY, Image, Images
from stoker.store.database import Database

SPEC = ImageSpec(("FROM base",), {})
Body = Callable[["House"], Awaitable[None]]


class Builds:
    def __init__(self) -> None:
        self.builds = 0
        self.lost = False
        self.removed: list[str] = []
        self.began, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_end.set()

    async def build(self, image_id: str, spec: ImageSpec, context: ContextRef) -> ImageConfig:
        self.builds += 1
        self.began.set()
        self.lost = False
        await self.may_end.wait()
        return ImageConfig()

    async def has(self, image_id: str) -> bool:
        return not self.lost

    async def remove(self, image_id: str) -> None:
        self.removed.append(image_id)

    async def close(self) -> None: ...


class House:
    def __init__(self, path: Path) -> None:
        """Within a running loop."""
        self.database = Database.open(f"sqlite:///{path}/db")
        self.builds: Any = Builds()
        self.images = Images(self.database, self.builds)

    async def ask(self, name: str = "") -> Image:
        """Another name is another image."""
        return await self.images.ensure(replace(SPEC, builder_version=name), self.context)

    async def context(self, spec: ImageSpec) -> ContextRef:
        return ContextRef()

    async def built(self) -> Image:
        """Asks, and waits for the build."""
        image = await self.ask()
        async for _ in self.images.follow(image.id, 0, 30.0):
            pass
        return image


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def start(body: Body) -> None:
        async def all_() -> None:
            house = House(tmp_path)
            try:
                await body(house)
                await house.images.close()
            finally:
                await house.database.close()

        asyncio.run(all_())

    return start


def test_two_who_ask_at_once_get_one_build(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        first, second = await asyncio.gather(house.ask(), house.ask())
        assert first is second
        assert (await house.built()).state == READY
        assert house.builds.builds == 1

    run(body)


def test_an_image_whose_files_are_gone_is_built_again(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        assert (await house.built()).state == READY
        await house.built()
        assert house.builds.builds == 1
        house.builds.lost = True
        await asyncio.gather(house.ask(), house.ask())
        assert (await house.built()).state == READY
        assert house.builds.builds == 2

    run(body)


def test_a_build_that_cannot_be_noted_down_fails_and_is_tried_again(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(house: House) -> None:
        with monkeypatch.context() as patch:

            async def full(work: Any) -> None:
                raise OSError("no space left on device")

            patch.setattr(house.database, "write", full)
            assert (await house.built()).state == FAILED
        assert (await house.built()).state == READY

    run(body)


def test_a_build_that_a_restart_interrupted_says_so(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        house.builds.may_end.clear()
        image = await house.ask()
        await house.builds.began.wait()
        house.images = Images(house.database, house.builds)  # as the next server would be
        after = house.images.get(image.id)
        assert after.state == FAILED and "server stopped" in after.error
        house.builds.may_end.set()
        assert (await house.built()).state == READY

    run(body)


def test_deleting_frees_the_layers_unless_containers_run_from_them(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        image = await house.built()
        house.images.running = lambda: {image.id}
        with pytest.raises(FailedPrecondition, match="Containers run from"):
            await house.images.delete(image.id)
        assert house.builds.removed == [] and house.images.config(image.id)
        house.images.running = tuple
        await house.images.delete(image.id)
        assert house.builds.removed == [image.id]
        with pytest.raises(NotFound):
            house.images.get(image.id)

    run(body)


async def _watch(house: House, image: Image) -> str:
    """Waits for a build as a client does; its log."""
    return "".join([text async for _, text in house.images.follow(image.id, 0, 60.0)])


def test_who_waits_for_a_slot_is_told_what_holds_them(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        house.builds.may_end.clear()
        running = [await house.ask(name) for name in ("a", "b")]
        watching = [asyncio.ensure_future(_watch(house, image)) for image in running]
        await house.builds.began.wait()
        running[0].write("Step 2/3: RUN pip install torch\n")
        third, fourth = await house.ask("c"), await house.ask("d")
        watching += [asyncio.ensure_future(_watch(house, image)) for image in (third, fourth)]
        log = "".join(third.log)
        assert "2 images are being built." in log and f"{running[0].id}, for 0:00 min: Step 2/3: RUN pip" in log
        assert "1 more waits for their turn before it" in "".join(fourth.log)
        states = [(view.image_id, view.running, view.watched) for view in house.images.builds()]
        assert [state[1] for state in states] == [True, True, False, False]
        house.builds.may_end.set()
        logs = await asyncio.gather(*watching)
        assert "Its turn has come." in logs[2] and "Its turn has come." in logs[3]
        assert all(image.state == READY for image in (*running, third, fourth))
        assert house.images.builds() == []

    run(body)


def test_a_build_whose_clients_are_gone_gives_its_slot_to_one_that_is_wanted(
    run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_queue, "GRACE", 0.2)

    async def body(house: House) -> None:
        house.builds.may_end.clear()
        left = [await house.ask(name) for name in ("a", "b")]
        for image in left:
            client = asyncio.ensure_future(_watch(house, image))
            await asyncio.sleep(0)
            client.cancel()
        await asyncio.sleep(0.5)
        assert [image.state for image in left] == ["building"] * 2, "a slot was free"
        wanted = await house.ask("c")
        watching = asyncio.ensure_future(_watch(house, wanted))
        assert wanted.turn is not None
        await asyncio.wait([wanted.turn], timeout=60)
        assert left[0].state == FAILED and "needed its slot" in left[0].error
        house.builds.may_end.set()
        await watching
        assert wanted.state == READY
        # It begins anew when somebody asks again.
        assert (await house.ask("a")) is not left[0]

    run(body)


def test_a_build_is_cancelled(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        house.builds.may_end.clear()
        for begun in (True, False):
            image = await house.ask(str(begun))
            watching = asyncio.ensure_future(_watch(house, image))
            if begun:
                await house.builds.began.wait()
            await house.images.cancel(image.id)
            await watching
            assert (image.state, image.error) == (FAILED, "The build was cancelled.")
            assert house.images.builds() == []
            with pytest.raises(NotFound, match="no build"):
                await house.images.cancel(image.id)
        image = await house.ask("deleted")
        await house.images.delete(image.id)
        with pytest.raises(NotFound):
            house.images.get(image.id)

    run(body)


def test_a_damaged_image_is_refused_and_nothing_is_built_on_it(run: Callable[[Body], None]) -> None:
    async def body(house: House) -> None:
        damaged = set[str]()

        async def check(image_id: str) -> None:
            if image_id in damaged:
                raise Damaged("It is damaged.")

        house.images.check_layers = check
        image = await house.built()
        assert await house.ask() is image
        damaged.add(image.id)
        with pytest.raises(Damaged):
            await house.ask()
        with pytest.raises(Damaged):
            await house.images.ensure(replace(SPEC, bases={"base": image.id}), house.context)
        assert house.builds.builds == 1

    run(body)
