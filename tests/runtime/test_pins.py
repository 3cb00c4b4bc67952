"""A directory inside a volume is mounted as it was when it was chosen, whatever a container does to its name meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stoker.errors import FailedPrecondition
from stoker.runtime import linux
from stoker.runtime.base import BindMount
from stoker.runtime.pins import Pins
from tests.runtime.conftest import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("needs_root")]


def volume(directory: Path) -> tuple[Path, Path]:
    """(a volume, a directory in it)."""
    chosen = directory / "volume" / "users" / "ann"
    chosen.mkdir(parents=True)
    (chosen / "file").write_text("hers")
    return directory / "volume", chosen


def secrets(directory: Path) -> Path:
    """Files of the host, at the same names as those of the volume."""
    (directory / "host" / "ann").mkdir(parents=True)
    (directory / "host" / "ann" / "file").write_text("the host's")
    return directory / "host"


def swap(root: Path, host: Path) -> None:
    """What a container that writes to the volume may do at any moment."""
    (root / "users").rename(root / "moved")
    (root / "users").symlink_to(host)


async def test_a_link_put_in_its_way_is_not_followed(tmp_path: Path) -> None:
    root, chosen = volume(tmp_path)
    swap(root, secrets(tmp_path))
    pins = Pins(tmp_path / "pins")
    with pytest.raises(FailedPrecondition, match="no directory any more"):
        pins.pin("ta-1", chosen, root)
    pins.release("ta-1")
    assert not linux.mounts_below(tmp_path)


async def test_what_is_held_stays_the_same_and_is_let_go_unharmed(tmp_path: Path) -> None:
    root, chosen = volume(tmp_path)
    pins = Pins(tmp_path / "pins")
    held = [pins.pin("ta-1", chosen, root), pins.pin("ta-1", chosen, root), pins.pin("ta-2", chosen, root)]
    swap(root, secrets(tmp_path))
    assert [(place / "file").read_text() for place in held] == ["hers"] * 3
    pins.release("ta-1")
    assert linux.mounts_below(tmp_path) == [held[2]]
    Pins(tmp_path / "pins").sweep()  # as the next server does
    assert not linux.mounts_below(tmp_path) and not list((tmp_path / "pins").iterdir())
    assert (root / "moved" / "ann" / "file").read_text() == "hers"


async def test_a_sandbox_has_the_directory_and_not_what_took_its_name(sandboxes: Bench, tmp_path: Path) -> None:
    root, chosen = volume(tmp_path)
    mount = BindMount(chosen, "/part", read_only=False, within=root)
    end, output = await sandboxes.run("/bin/sh", "-c", "cat /part/file; echo new > /part/new", mounts=(mount,))
    assert (end.code, output.text, (chosen / "new").read_text()) == (0, "hers", "new\n")
    swap(root, secrets(tmp_path))
    with pytest.raises(FailedPrecondition, match="no directory any more"):
        await sandboxes.run("/bin/cat", "/part/file", mounts=(mount,))
    shutil.rmtree(tmp_path / "volume")
