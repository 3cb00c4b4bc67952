"""Layers that the disk has changed: their digests, what `stoker fsck` says of them, and that they are built anew."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_fsck import flip
from tests.images.conftest import Workshop, needs_buildah

from stoker.errors import NotFound
from stoker.fsck import images as fsck
from stoker.fsck.report import Report
from stoker.images.layer_sums import LayerSums, sums_of
from stoker.images.records import Record, Records
from stoker.integrity.reading import Pace
from stoker.nodes.builds import ImageConfig


def looked(images: Path) -> Report:
    report = Report()
    fsck.check(images, report, Pace(), lambda what, done, total: None, None, set())
    return report


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images, of which one is built on the other; and digests of their layers."""
    images = tmp_path / "images"
    layers = [images / f"storage/overlay/{name}/diff" for name in ("lower", "upper")]
    for layer in layers:
        (layer / "usr/lib").mkdir(parents=True)
        (layer / "usr/lib/code.so").write_bytes(os.urandom(100_000))
    records = Records(images / "built")
    records.write("im-lower", Record((layers[0],), ImageConfig()))
    records.write("im-upper", Record((layers[1], layers[0]), ImageConfig()))

    async def make() -> None:
        sums = LayerSums(images)
        sums.want(layers)
        sums.want(layers)
        while sums._jobs:
            await asyncio.wait(sums._jobs)
        await sums.close()

    asyncio.run(make())
    assert {path.name for path in (images / "sums").iterdir()} == {"lower.gz", "upper.gz"}
    return images


def test_whole_layers_are_whole(images: Path) -> None:
    report = looked(images)
    assert report.problems == [] and report.checked == {"image": 2, "layer": 2} and not report.unknown.total()


@pytest.mark.parametrize("damage", ["flipped", "empty", "gone"])
def test_a_damaged_layer_is_told_with_all_images_on_it(images: Path, damage: str) -> None:
    lower = images / "storage/overlay/lower/diff"
    code = lower / "usr/lib/code.so"
    if damage == "flipped":
        flip(code, 70_000)
    elif damage == "empty":
        os.truncate(code, 0)
    else:
        lower.rename(lower.with_name("elsewhere"))
    [problem] = looked(images).problems
    assert problem.kind == "layer" and problem.depends == ["the image im-lower", "the image im-upper"]
    told = {
        "flipped": "usr/lib/code.so has another SHA-256",
        "empty": "code.so has 0 bytes",
        "gone": "its directory is gone",
    }
    assert told[damage] in problem.detail and problem.heal is not None


def test_layers_without_good_digests_are_unknown(images: Path) -> None:
    lower, upper = (images / f"storage/overlay/{name}/diff" for name in ("lower", "upper"))
    sums_of(images, lower).unlink()
    os.truncate(sums_of(images, upper), 20)
    report = looked(images)
    assert report.problems == [] and report.unknown["layer"] == 2 and "damaged themselves" in report.notes[0]


def test_digests_go_with_their_layers(images: Path) -> None:
    LayerSums(images).forget_removed([images / "storage/overlay/upper/diff"])
    assert {path.name for path in (images / "sums").iterdir()} == {"upper.gz"}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    own = Workshop(tmp_path / "data")
    yield own
    own.close()


@needs_buildah
def test_a_damaged_image_is_removed_and_built_anew(shop: Workshop) -> None:
    """Of the whole ones those stay that are not built on it."""
    image, _ = shop.build(["FROM debian:bookworm-slim", "RUN echo content > /file"])
    other, _ = shop.build(["FROM debian:bookworm-slim", "RUN echo other > /other"])
    while shop.builder._sums._jobs:
        shop.run(asyncio.wait(shop.builder._sums._jobs))
    images = shop.data / "images"
    assert looked(images).problems == [] and not looked(images).unknown.total()
    found = shop.find(image, "/file")
    assert found is not None
    flip(found, 2)
    [problem] = looked(images).problems
    assert "file has another SHA-256" in problem.detail and problem.heal is not None
    shop.run(shop.builder.close())
    problem.heal()
    with pytest.raises(NotFound):
        shop.run(shop.builder.layers(image))
    assert looked(images).problems == []
    assert shop.text(other, "/other") == "other\n"
    again, _ = shop.build(["FROM debian:bookworm-slim", "RUN echo content > /file"])
    assert shop.text(again, "/file") == "content\n"
