"""Set-user-id bits in directories that containers write to."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import anyio
import pytest

from stoker.agent import special_bits
from stoker.agent.special_bits import SpecialBits
from stoker.store.special_bits import remove_special_bits


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_bits_of_all_files_go_and_nothing_else_does(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "shared").mkdir(mode=0o2775)
    (root / "a" / "shared").chmod(0o2775)
    for path, mode in (
        (root / "suid", 0o4755),
        (root / "a" / "sgid", 0o2711),
        (root / "a" / "b" / "both", 0o6000),
        (root / "plain", 0o640),
        (outside, 0o4755),
    ):
        path.write_bytes(b"")
        path.chmod(mode)
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(root)
    assert remove_special_bits(root) == 3
    assert [_mode(root / p) for p in ("suid", "a/sgid", "a/b/both", "plain")] == [0o755, 0o711, 0, 0o640]
    assert _mode(outside) == 0o4755
    assert _mode(root / "a" / "shared") == 0o2775  # of directories it means whose group new files have
    assert remove_special_bits(tmp_path / "gone") == 0


def test_a_tree_without_a_bottom_is_looked_at_as_far_as_it_goes(tmp_path: Path) -> None:
    place = tmp_path
    for _ in range(300):
        place = place / "d"
        place.mkdir()
    (tmp_path / "suid").write_bytes(b"")
    (tmp_path / "suid").chmod(0o4755)
    assert remove_special_bits(tmp_path) == 1


def test_directories_are_looked_at_after_a_container_and_while_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(special_bits, "_PERIOD", 0.05)
    monkeypatch.setattr(special_bits, "_SOON", 0.01)

    async def becomes_plain() -> None:
        with anyio.fail_after(10):
            while _mode(tmp_path / "file") != 0o755:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def main() -> None:
        bits = SpecialBits()
        bits.mounted("ta-1", [tmp_path])
        bits.mounted("ta-2", [tmp_path])
        for leaves in (None, "ta-1", None, "ta-2"):
            (tmp_path / "file").write_bytes(b"")
            (tmp_path / "file").chmod(0o4755)
            if leaves:
                bits.left(leaves)
            await becomes_plain()
        with anyio.fail_after(10):
            while bits._jobs:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await bits.close()

    asyncio.run(main())
