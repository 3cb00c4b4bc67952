"""Files that were sent with apps, by their digests, and the trees of mounts that are made of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from stoker.fsck.dependents import Dependents
from stoker.fsck.report import Report
from stoker.integrity.reading import Pace, sha256
from stoker.services.telemetry.damages import FILE
from stoker.store.contents import Contents
from stoker.store.filetree import parts_of

Progress = Callable[[str, int, int], None]


def check(directory: Path, report: Report, pace: Pace, progress: Progress, dependents: Dependents | None) -> None:
    """All contents: each is named by its digest."""
    if not directory.is_dir():
        return
    contents = Contents(directory, look=True)
    names = list(contents.all())
    for number, name in enumerate(names):
        progress("files of apps", number, len(names))
        report.checked[FILE] += 1
        path = directory / name[:2] / name
        found, wrong = "", ""
        try:
            found = sha256(path, pace)
        except FileNotFoundError:
            continue  # replaced just now
        except OSError as error:
            wrong = f"cannot be read ({error.strerror})"
        if found == name:
            continue
        _found(
            name,
            wrong or f"has {path.stat().st_size} bytes with another SHA-256",
            report,
            dependents,
            partial(contents.put_aside, name),
        )
    for name in sorted(_missing(contents, dependents)) if dependents is not None else ():
        _found(name, "is gone", report, dependents, None)


def check_trees(directory: Path, report: Report, pace: Pace, progress: Progress, dependents: Dependents) -> None:
    """The trees that are there; a tree that is not is made when it is needed."""
    trees = sorted(path for path in directory.iterdir() if not path.name.startswith(".")) if directory.is_dir() else []
    for number, tree in enumerate(trees):
        progress("trees of mounts", number, len(trees))
        files = dependents.mounts.get(tree.name)
        if files is None:
            continue
        report.checked["mount"] += 1
        wrong = [path for path, digest, _ in files if not _is_right(tree.joinpath(*parts_of(path)), digest, pace)]
        if wrong and tree.is_dir():  # not removed by the server while it was read
            report.found(
                "mount",
                tree.name,
                f"{len(wrong)} of the {len(files)} files of the mount {tree.name} are not what was sent: {', '.join(wrong[:5])}.",
                depends=dependents.of([tree.name]),
                remedy="Remove its tree: the server makes it anew of the files that were sent.",
                heal=partial(shutil.rmtree, tree),
            )


def _is_right(path: Path, digest: str, pace: Pace) -> bool:
    try:
        return sha256(path, pace) == digest
    except OSError:
        return False


def _missing(contents: Contents, dependents: Dependents) -> set[str]:
    """What mounts of functions are made of, and is not there."""
    used = {mount_id: files for mount_id, files in dependents.mounts.items() if dependents.of([mount_id])}
    return {digest for files in used.values() for _, digest, _ in files if not contents.has(digest)}


def _found(
    name: str, what: str, report: Report, dependents: Dependents | None, heal: Callable[[], None] | None
) -> None:
    places = dependents.mounts_with(name) if dependents is not None else []
    depends = [f"{path} of the mount {mount_id}" for mount_id, path in places]
    if dependents is not None:
        depends += dependents.of({mount_id for mount_id, _ in places})
    report.found(
        FILE,
        name,
        f"The file with SHA-256 {name}, which was sent with an app, {what}.",
        depends=depends,
        remedy="Deploy the apps again: a file that is put aside is sent once more.",
        heal=heal,
    )
