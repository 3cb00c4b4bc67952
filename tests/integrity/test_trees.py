"""Digests of a directory tree: what they notice, and that they notice what happened to themselves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.integrity import trees
from stoker.integrity.reading import CalledOff, Pace

CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte": (lambda t: (t / "file").write_bytes(b"Content"), "file has another SHA-256 than it had"),
    "shorter": (lambda t: os.truncate(t / "file", 3), "file has 3 bytes and had 7"),
    "empty": (lambda t: os.truncate(t / "file", 0), "file has 0 bytes and had 7"),
    "gone": (lambda t: (t / "file").unlink(), "file is gone"),
    "more": (lambda t: (t / "new").touch(), "new was not there before"),
    "permissions": (lambda t: (t / "file").chmod(0o600), "file has other permissions than it had"),
    "below": (lambda t: (t / "a/b/deep").write_bytes(b"x"), "a/b/deep has 1 bytes and had 4"),
    "a link": (
        lambda t: ((t / "link").unlink(), (t / "link").symlink_to("other")),
        "link has another SHA-256 than it had",
    ),
    "another kind": (lambda t: ((t / "file").unlink(), (t / "file").mkdir()), "file is a directory and was a file"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a/b").mkdir(parents=True)
    (root / "file").write_bytes(b"content")
    (root / "empty").touch()
    (root / "a/b/deep").write_bytes(b"deep")
    (root / "link").symlink_to("file")
    (root / os.fsdecode(b"not \xff UTF-8")).write_bytes(b"named so")
    os.mkfifo(root / "fifo")  # nobody must try to read it
    return root


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_a_tree_that_is_as_it_was_is_whole(tree: Path, inside: bool, direct: bool) -> None:
    sums = (tree if inside else tree.parent) / "sums.gz"
    for _ in range(2):
        trees.write(tree, sums, Pace())
        assert list(trees.check(tree, sums, Pace(direct=direct))) == []


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_told(tree: Path, change: str) -> None:
    how, told = CHANGES[change]
    sums = tree.parent / "sums.gz"
    trees.write(tree, sums, Pace())
    how(tree)
    assert list(trees.check(tree, sums, Pace())) == [told]


def test_of_many_changes_some_are_told(tree: Path) -> None:
    sums = tree.parent / "sums.gz"
    trees.write(tree, sums, Pace())
    for number in range(50):
        (tree / f"new {number}").touch()
    (tree / "file").unlink()
    told = list(trees.check(tree, sums, Pace()))
    assert len(told) == 21 and told[-1] == "and 31 more"


def test_damaged_digests_are_no_damage_of_the_tree(tree: Path) -> None:
    sums = tree.parent / "sums.gz"
    trees.write(tree, sums, Pace())
    whole = sums.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole), whole[:30] + b"\0" + whole[31:]):
        sums.write_bytes(damaged)
        with pytest.raises(ValueError, match="are damaged themselves"):
            list(trees.check(tree, sums, Pace()))
    sums.unlink()
    with pytest.raises(FileNotFoundError):
        list(trees.check(tree, sums, Pace()))


def test_it_can_be_called_off(tree: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(CalledOff):
        trees.write(tree, tree.parent / "sums.gz", Pace(stop=stop))
    assert not (tree.parent / "sums.gz").exists()
    with pytest.raises(CalledOff):
        trees.write(tree, tree.parent / "sums.gz", Pace(bytes_a_second=1.0, stop=stop))
