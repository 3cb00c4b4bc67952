"""A data directory of an earlier version of Stoker, whose images buildah built and kept."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.images.conftest import Workshop, needs_buildah

from stoker.images.buildah import BASE_TAG, TAG
from stoker.images.records import Record

pytestmark = needs_buildah
NAME = "debian:bookworm-slim"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    own = Workshop(tmp_path / "data")
    yield own
    own.close()


def buildah(shop: Workshop, *arguments: str) -> str:
    storage = shop.data / "images"
    own = ("--root", str(storage / "storage"), "--runroot", str(storage / "run"), "--storage-driver", "overlay")
    command = ["unshare", "--mount", "buildah", *own, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_its_images_are_used_and_go_when_nobody_needs_them(shop: Workshop) -> None:
    _, config = shop.build([f"FROM {NAME}", "RUN true"])
    (record,) = (shop.data / "images/bases").glob("*.json")
    local = f"{BASE_TAG}:{record.stem}"
    # The base: a name in buildah's storage, and a record that says where it came from.
    record.write_text(json.dumps({"name": NAME, "from": "debian"}))
    # An image on it: a layer in buildah's storage, and a record of its layers.
    container = buildah(shop, "from", "--pull-never", local)
    (shop.data / "file").write_text("earlier")
    buildah(shop, "copy", container, str(shop.data / "file"), "/earlier")
    buildah(shop, "commit", "--quiet", container, f"{TAG}:im-old")
    buildah(shop, "rm", container)
    storage = shop.builder._buildah
    image = storage.id_of(f"{TAG}:im-old")
    own = storage.layers(image)[0]
    shop.builder._records.write("im-old", Record(storage.layers(image), config, image))

    again, _ = shop.build([f"FROM {NAME}", "RUN echo again > /again"])
    assert shop.text(again, "/again") == "again\n"
    assert json.loads(record.read_bytes())["from"] == "debian"
    above, _ = shop.build(["FROM base", "RUN cat /earlier > /above"], base="im-old")
    assert shop.text(above, "/above") == "earlier"

    shop.run(shop.builder.remove("im-old"))
    assert shop.text(above, "/earlier") == "earlier", "another image is built on it"
    shop.run(shop.builder.remove(above))
    assert not own.exists(), "the storage was not freed"

    shop.run(shop.free((), time.time() + 60))
    assert not list((shop.data / "images/storage/overlay").glob("[0-9a-f]*"))
    assert not list((shop.data / "images/layers").iterdir())
