"""What of images is freed when nobody uses them, in a storage of its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.images.conftest import Workshop, needs_buildah

from stoker.errors import FailedPrecondition, NotFound

pytestmark = needs_buildah
FROM = "FROM debian:bookworm-slim"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    own = Workshop(tmp_path / "data")
    yield own
    own.close()


def _layers(shop: Workshop) -> set[str]:
    kept = (shop.data / "images/storage/overlay").glob("[0-9a-f]*")
    return {path.name for path in (*kept, *(shop.data / "images/layers").iterdir())}


def test_what_nobody_uses_is_freed_and_nothing_else(shop: Workshop) -> None:
    lower, _ = shop.build([FROM, "RUN echo lower > /lower"])
    upper, _ = shop.build(["FROM base", "RUN echo upper > /upper"], base=lower)
    unused, _ = shop.build([FROM, "RUN head -c 3000000 /dev/urandom > /large"])
    own = shop.run(shop.builder.layers(unused))[0]
    python = shop.data / "images/pythons/cpython-3.11.99"
    (python / "python").mkdir(parents=True)
    os.utime(python, (1, 1))
    later = time.time() + 60
    found = shop.run(shop.builder.leftovers({lower, upper}, later))
    assert {(item.kind, item.name) for item in found} == {("image", unused), ("python", python.name)}
    assert next(item.size for item in found if item.kind == "image") > 3_000_000
    assert own.exists() and python.exists(), "it was only to look"
    assert shop.run(shop.builder.leftovers({lower, upper, unused}, time.time() - 3600)) == [found[-1]]

    gone = shop.run(shop.free({lower, upper}, later))
    assert gone == found and not own.exists() and not python.exists()
    with pytest.raises(NotFound):
        shop.run(shop.builder.layers(unused))
    assert shop.text(upper, "/lower") == "lower\n" and shop.text(upper, "/upper") == "upper\n"

    shop.run(shop.free((), later))
    assert _layers(shop) == set()
    again, _ = shop.build([FROM, "RUN echo again > /again"])
    assert shop.text(again, "/again") == "again\n"


def test_nothing_is_freed_during_a_build(shop: Workshop) -> None:
    said = asyncio.Event()

    class Watch(list[str]):
        def append(self, text: str) -> None:
            if text == "here\n":
                said.set()

    shop.log = Watch()

    async def both() -> None:
        build = asyncio.ensure_future(shop.build_later(shop.new_id(), [FROM, "RUN echo here; sleep 300"]))
        try:
            await asyncio.wait_for(said.wait(), 60)
            with pytest.raises(FailedPrecondition, match="being built"):
                await shop.free((), time.time() + 60)
        finally:
            build.cancel()
            await asyncio.gather(build, return_exceptions=True)

    shop.run(both())
