"""What is remembered of built images."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.errors import NotFound
from stoker.images.records import Record, Records
from stoker.nodes.builds import ImageConfig


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


@pytest.mark.parametrize(
    "content", ["", "{", '{"image": "1"}', '{"image": "1", "layers": 5, "config": {}}', "[]", "\0" * 100]
)
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: str) -> None:
    """As after a power cut: the image is built anew, and the others are not touched."""
    records = Records(tmp_path / "images" / "built")
    for image_id in ("im-1", "im-2"):
        records.write(image_id, Record((), ImageConfig(), "1"))
    path = tmp_path / "images/built/im-1.json"
    path.write_text(content)
    with pytest.raises(NotFound, match="build it again"):
        records.read("im-1")
    assert list(records.damaged()) == [path]
    assert [image_id for image_id, _, _ in records.entries()] == ["im-2"]
    records.write("im-1", Record((), ImageConfig(), "1"))
    assert not list(records.damaged()) and records.read("im-1").image == "1"
