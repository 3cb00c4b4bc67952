"""Built images: their records and their layers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from stoker.fsck.dependents import Dependents
from stoker.fsck.report import Report
from stoker.images.layer_sums import name_of, sums_of
from stoker.images.leftovers import discard
from stoker.images.records import Records
from stoker.integrity import trees
from stoker.integrity.reading import Pace
from stoker.services.telemetry.damages import LAYER

_REMEDY = "Let it be built again: deploy the apps that use it."


def check(
    directory: Path,
    report: Report,
    pace: Pace,
    progress: Callable[[str, int, int], None],
    dependents: Dependents | None,
    built: Collection[str],
) -> None:
    """built: the images that the database counts as built."""
    missing = set(built)
    for place in ("built", "host"):
        records = Records(directory / place)
        for path in records.damaged():
            missing.discard(path.stem)
            report.checked["image"] += 1
            report.found(
                "image",
                path.stem,
                f"The record {path} of the image {path.stem} cannot be read.",
                depends=_of([path.stem], dependents),
                remedy=_REMEDY,
                heal=partial(path.unlink, missing_ok=True),
            )
        missing -= {image_id for image_id, _, _ in records.entries()}
    for image_id in sorted(missing):
        depends = _of([image_id], dependents)
        if depends:
            report.found("image", image_id, f"The image {image_id} is gone.", depends=depends, remedy=_REMEDY)
    users: dict[Path, list[str]] = {}
    for image_id, _, record in Records(directory / "built").entries():
        report.checked["image"] += 1
        for layer in record.layers:
            users.setdefault(layer, []).append(image_id)
    for number, (layer, image_ids) in enumerate(users.items()):
        progress("layers of images", number, len(users))
        report.checked[LAYER] += 1
        what = _look(directory, layer, report, pace)
        if what:
            report.found(
                LAYER,
                name_of(directory, layer),
                f"The layer {layer} is damaged: {what}.",
                depends=[*(f"the image {image_id}" for image_id in image_ids), *_of(image_ids, dependents)],
                remedy=_REMEDY,
                heal=partial(_discard, directory, layer),
            )


def _look(directory: Path, layer: Path, report: Report, pace: Pace) -> str:
    if not layer.is_dir():
        return "its directory is gone"
    try:
        return "; ".join(trees.check(layer, sums_of(directory, layer), pace))
    except FileNotFoundError:
        report.unknown[LAYER] += 1
        return ""
    except ValueError as error:
        report.unknown[LAYER] += 1
        report.notes.append(f"The layer {layer} was not compared: {error}.")
        return ""


def _of(image_ids: Collection[str], dependents: Dependents | None) -> list[str]:
    return dependents.of(dependents.images_on(image_ids)) if dependents is not None else []


def _discard(directory: Path, layer: Path) -> None:
    asyncio.run(discard(directory, [layer]))
