"""What is remembered of each built image: one small file per image, so that a restarted server knows them all at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from stoker.errors import NotFound
from stoker.nodes.builds import ImageConfig

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Record:
    """`layers` (uppermost first) are the directories of an image. `image`: its id in buildah's storage, for those of earlier versions of
    Stoker, which have their layers there."""

    layers: tuple[Path, ...]
    config: ImageConfig
    image: str = ""


class Records:
    """Records by image id in `directory`, a room of the images' own directory.

    Layers in there are written relative to it, so that a data directory can be moved, or restored from a backup elsewhere.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._images = directory.parent

    def read(self, image_id: str) -> Record:
        """Raises NotFound, also when a layer was deleted behind the server's back. Counts as a use of the image."""
        record = self.find(image_id)
        if record is None or not all(layer.is_dir() for layer in record.layers):
            raise NotFound(
                f"The image {image_id} is not on this server (any more); build it again by deploying or running the app."
            )
        os.utime(self._path(image_id))
        return record

    def find(self, image_id: str) -> Record | None:
        """The record as it is; None when there is none."""
        return self._load(self._path(image_id))

    def write(self, image_id: str, record: Record) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        document = {
            "image": record.image,
            "layers": [str(self._relative(layer)) for layer in record.layers],
            "config": json.loads(record.config.to_json()),
        }
        path = self._path(image_id)
        temporary = path.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def remove(self, image_id: str) -> None:
        self._path(image_id).unlink(missing_ok=True)

    def entries(self) -> Iterator[tuple[str, float, Record]]:
        """Every image's id, when it was last used (seconds since the epoch), and its record."""
        for path in sorted(self._directory.glob("*.json")):
            if (record := self._load(path)) is not None:
                yield path.stem, path.stat().st_mtime, record

    def _path(self, image_id: str) -> Path:
        return self._directory / f"{image_id}.json"

    def damaged(self) -> Iterator[Path]:
        """The files of records that cannot be read. Their images count as not there, and are built anew when they are asked for."""
        for path in sorted(self._directory.glob("*.json")):
            if self._load(path) is None and path.exists():
                yield path

    def _load(self, path: Path) -> Record | None:
        try:
            document = json.loads(path.read_bytes())
            config = ImageConfig.from_json(json.dumps(document["config"]))
            layers = tuple(self._images / layer for layer in document["layers"])
            return Record(layers, config, document["image"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:  # such as an empty file after a power cut
            _log.error("a record of an image is damaged", path=str(path), error=str(error))
            return None

    def _relative(self, layer: Path) -> Path:
        return layer.relative_to(self._images) if layer.is_relative_to(self._images) else layer
