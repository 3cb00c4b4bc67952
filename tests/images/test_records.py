"""What is remembered of built images."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.errors import NotFound
from stoker.images.base import ImageConfig
from stoker.images.records import Record, Records


def test_images_move_with_their_directory(tmp_path: Path) -> None:
    old, new, elsewhere = tmp_path / "old", tmp_path / "new", tmp_path / "elsewhere"
    layer = old / "images" / "storage" / "layer"
    for directory in (layer, elsewhere):
        directory.mkdir(parents=True)
    Records(old / "images" / "built").write("im-1", Record((layer, elsewhere), ImageConfig()))
    old.rename(new)
    assert Records(new / "images" / "built").read("im-1").layers == (new / "images" / "storage" / "layer", elsewhere)


def test_an_image_without_one_of_its_layers_is_not_there(tmp_path: Path) -> None:
    records = Records(tmp_path / "images" / "built")
    records.write("im-1", Record((tmp_path / "images" / "gone",), ImageConfig()))
    with pytest.raises(NotFound, match="build it again"):
        records.read("im-1")
