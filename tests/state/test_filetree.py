"""Paths in a directory that others write to: nothing leads outside."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, StokerError
from stoker.store.filetree import FileTree, parts_of
from stoker.store.treecopy import TreeCopy

SECRET = b"outside"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A tree in `root`, and beside it a file that must stay untouched."""
    (tmp_path / "root").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(SECRET)
    return tmp_path


def tree_of(place: Path) -> FileTree:
    return FileTree(place / "root", "the volume 'v'")


def publish(place: Path, path: str, content: bytes, overwrite: bool = True) -> None:
    new = place / "scratch" / "new"
    new.write_bytes(content)
    tree_of(place).publish(new, parts_of(path), overwrite=overwrite)


def read(place: Path, path: str) -> bytes:
    with tree_of(place).file(parts_of(path)) as descriptor:
        return os.read(descriptor, 1000)


@pytest.mark.parametrize(
    "path", ["..", "../outside/file", "a/../../outside/file", "/../outside/file", "a\0b", "x" * 256]
)
def test_paths_that_cannot_be_inside_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        parts_of(path)


@pytest.mark.parametrize("path", ["/a/b", "a/b", "//a//b/", "./a/./b"])
def test_a_path_has_one_meaning_however_it_is_written(path: str) -> None:
    assert parts_of(path) == ("a", "b")


LINKS = {
    "absolute": lambda root: (root / "link").symlink_to(root.parent / "outside"),
    "relative": lambda root: (root / "link").symlink_to("../outside"),
    "chained": lambda root: ((root / "one").symlink_to("../outside"), (root / "link").symlink_to("one")),
    "deep": lambda root: ((root / "d").mkdir(), (root / "link").symlink_to("d/../../outside")),
}


@pytest.mark.parametrize("make", LINKS.values(), ids=LINKS.keys())
def test_no_operation_follows_a_link_to_the_outside(place: Path, make: Callable[[Path], object]) -> None:
    make(place / "root")
    tree = tree_of(place)
    with pytest.raises(FailedPrecondition, match="outside"):
        read(place, "link/file")
    with pytest.raises(FailedPrecondition, match="outside"):
        publish(place, "link/file", b"evil")
    with pytest.raises(FailedPrecondition, match="outside"):
        publish(place, "link/new/file", b"evil")
    with pytest.raises(FailedPrecondition, match="outside"):
        tree.take_out(parts_of("link/file"), place / "scratch" / "taken", recursive=True)
    with pytest.raises(FailedPrecondition, match="outside"):
        tree.make_directory(parts_of("link/sub"))
    with pytest.raises(FailedPrecondition, match="outside"):
        TreeCopy(tree, place / "scratch").copy(["link/file"], "copy", recursive=True)
    with pytest.raises(FailedPrecondition, match="outside"):
        list(tree.walk(parts_of("link/file"), recursive=True))
    assert [e.path for e in tree.walk(parts_of("link"), recursive=True)] == ["link"]
    assert not [e for e in tree.walk((), recursive=True) if e.path.endswith("/file")]
    assert [p.name for p in (place / "outside").iterdir()] == ["file"]
    assert (place / "outside" / "file").read_bytes() == SECRET


def test_links_that_stay_inside_are_followed(place: Path) -> None:
    root = place / "root"
    (root / "blobs").mkdir()
    (root / "blobs" / "x").write_bytes(b"weights")
    (root / "snapshots" / "main").mkdir(parents=True)
    (root / "snapshots" / "main" / "model").symlink_to("../../blobs/x")
    (root / "latest").symlink_to("snapshots/main")
    assert read(place, "latest/model") == b"weights"
    assert [e.path for e in tree_of(place).walk(("latest",), recursive=False)] == ["latest/model"]
    publish(place, "latest/other", b"new")
    assert (root / "snapshots" / "main" / "other").read_bytes() == b"new"
    assert tree_of(place).make_directory(parts_of("latest/sub")) == root / "snapshots" / "main" / "sub"


def test_links_in_a_circle_end(place: Path) -> None:
    (place / "root" / "a").symlink_to("b")
    (place / "root" / "b").symlink_to("a")
    with pytest.raises(FailedPrecondition, match="too many links"):
        read(place, "a")


def test_a_link_in_place_of_the_target_is_replaced_not_followed(place: Path) -> None:
    (place / "root" / "f").symlink_to("../outside/file")
    publish(place, "f", b"mine")
    assert (place / "outside" / "file").read_bytes() == SECRET
    assert not (place / "root" / "f").is_symlink() and read(place, "f") == b"mine"


def test_removing_a_link_leaves_what_it_points_to(place: Path) -> None:
    (place / "root" / "link").symlink_to("../outside")
    tree_of(place).take_out(("link",), place / "scratch" / "taken", recursive=True)
    assert not (place / "root" / "link").is_symlink() and (place / "outside" / "file").exists()


def test_a_fifo_is_refused_without_waiting(place: Path) -> None:
    os.mkfifo(place / "root" / "fifo")
    with pytest.raises(FailedPrecondition, match="not a regular file"):
        read(place, "fifo")


def test_names_that_are_no_text_are_listed(place: Path) -> None:
    (place / "root" / os.fsdecode(b"bad\xff")).write_bytes(b"")
    assert [e.path for e in tree_of(place).walk((), recursive=True)] == ["bad�"]


def test_publish_keeps_what_may_not_be_replaced(place: Path) -> None:
    publish(place, "dir/f", b"old")
    with pytest.raises(AlreadyExists, match="'/dir/f' in the volume 'v' already exists"):
        publish(place, "dir/f", b"new", overwrite=False)
    with pytest.raises(AlreadyExists, match="is a directory"):
        publish(place, "dir", b"new")
    with pytest.raises(FailedPrecondition, match="not a directory"):
        publish(place, "dir/f/g", b"new")
    assert read(place, "dir/f") == b"old"


def test_a_directory_swapped_for_a_link_at_any_moment_leads_nowhere(place: Path) -> None:
    """The classic race: check a path, then use it. The swapper runs as fast as it can while the tree is used."""
    root = place / "root"
    (root / "real").mkdir()
    (root / "link").symlink_to("../outside")
    over = threading.Event()

    swaps = 0

    def swap() -> None:
        nonlocal swaps
        target = root / "d"
        while not over.is_set():
            for name in ("real", "link"):
                with contextlib.suppress(OSError):  # a publication may have made a directory there
                    os.rename(root / name, target)
                    swaps += 1
                with contextlib.suppress(OSError):
                    os.rename(target, root / (name if not os.path.lexists(root / name) else f"aside{swaps}"))

    swapper = threading.Thread(target=swap)
    swapper.start()
    refused = 0
    try:
        for number in range(1500):
            try:
                publish(place, f"d/new{number}", b"content")
            except StokerError:
                refused += 1
            try:
                assert read(place, "d/file") != SECRET
            except StokerError:
                refused += 1
    finally:
        over.set()
        swapper.join()
    assert refused and swaps > 100
    assert [p.name for p in (place / "outside").iterdir()] == ["file"]
    assert (place / "outside" / "file").read_bytes() == SECRET


names = st.sampled_from(["a", "b", "link", "..", ".", "", "file", "outside"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    links=st.lists(st.tuples(names, st.lists(names, min_size=1, max_size=4), st.booleans()), max_size=4),
    path=st.lists(names, max_size=5),
)
def test_whatever_links_there_are_no_path_reaches_the_outside(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, list[str], bool]], path: list[str]
) -> None:
    place = tmp_path_factory.mktemp("random")
    root = place / "root"
    (root / "a" / "b").mkdir(parents=True)
    (place / "scratch").mkdir()
    (place / "outside").mkdir()
    (place / "outside" / "file").write_bytes(SECRET)
    for name, target, absolute in links:
        text = "/".join(target) or "."
        at = root / "a" / name if absolute else root / name
        if name not in ("", ".", "..") and not os.path.lexists(at):
            at.symlink_to(f"{place}/outside" if absolute else text)
    asked = "/".join(path)
    for use in (
        lambda: read(place, asked) == SECRET,
        lambda: publish(place, asked + "/new", b"evil"),
        lambda: tree_of(place).take_out(parts_of(asked), place / "scratch" / "taken", recursive=False),
        lambda: tree_of(place).make_directory(parts_of(asked)).resolve().is_relative_to(root) or pytest.fail("left"),
    ):
        try:
            assert use() in (None, False, True) and use is not None
        except StokerError:
            continue
    assert [p.name for p in (place / "outside").iterdir()] == ["file"]
    assert (place / "outside" / "file").read_bytes() == SECRET


def test_copy_follows_the_rules_of_cp(place: Path) -> None:
    root = place / "root"
    (root / "src" / "sub").mkdir(parents=True)
    (root / "src" / "sub" / "f").write_bytes(b"deep")
    (root / "src" / "link").symlink_to("../../outside/file")
    (root / "one").write_bytes(b"1")
    (root / "one").chmod(0o750)
    (root / "two").write_bytes(b"2")
    (root / "into").mkdir()
    copy = TreeCopy(tree_of(place), place / "scratch").copy
    copy(["one"], "uno", recursive=False)
    assert (root / "uno").read_bytes() == b"1" and (root / "uno").stat().st_mode & 0o777 == 0o750
    copy(["one", "two"], "into", recursive=False)
    assert sorted(p.name for p in (root / "into").iterdir()) == ["one", "two"]
    copy(["src"], "into", recursive=True)
    assert (root / "into" / "src" / "sub" / "f").read_bytes() == b"deep"
    assert os.readlink(root / "into" / "src" / "link") == "../../outside/file"
    with pytest.raises(FailedPrecondition, match="--recursive"):
        copy(["src"], "other", recursive=False)
    with pytest.raises(FailedPrecondition, match="into itself"):
        copy(["src"], "src/sub", recursive=True)
    with pytest.raises(FailedPrecondition, match="not a directory"):
        copy(["one", "two"], "three", recursive=False)
    with pytest.raises(FailedPrecondition, match="onto itself"):
        copy(["one"], "one", recursive=False)
    with pytest.raises(NotFound):
        copy(["absent"], "x", recursive=False)
    assert not list((place / "scratch").iterdir())
