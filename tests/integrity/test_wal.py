"""What SQLite leaves out of a damaged log is seen; what a crash has cut off is none."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from stoker.integrity import wal


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """As a killed server leaves it: 20 commits."""
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE t (x)")
    for number in range(20):
        connection.execute("INSERT INTO t VALUES (?)", (number,))
    (tmp_path / "killed").write_bytes((tmp_path / "db").read_bytes())
    path = tmp_path / "killed-wal"
    path.write_bytes((tmp_path / "db-wal").read_bytes())
    connection.close()
    return path


def test_a_whole_log_is_whole(log: Path) -> None:
    state = wal.examine(log)
    assert state.problem == "" and state.committed >= 20 and state.lost == 0
    assert wal.examine(log.with_name("none")).problem == ""
    log.write_bytes(b"")
    assert wal.examine(log).problem == ""


def test_what_a_crash_cuts_off_is_no_damage(log: Path) -> None:
    whole = log.read_bytes()
    frames = wal.examine(log).committed
    for cut in (1, 100, 4_000):
        log.write_bytes(whole[:-cut])
        assert wal.examine(log) == wal.WalState(committed=frames - 1)


def test_a_changed_frame_with_others_behind_it_is_told(log: Path) -> None:
    content = bytearray(log.read_bytes())
    whole = wal.examine(log)
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    state = wal.examine(log)
    assert "frames are not read" in state.problem and state.committed + state.lost == whole.committed
    with sqlite3.connect(log.with_name("killed")) as connection:
        kept: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
    assert 0 < kept < 20, "SQLite says nothing of it"


@pytest.mark.parametrize("offset", [0, 9, 20, 26])
def test_a_damaged_head_is_told(log: Path, offset: int) -> None:
    content = bytearray(log.read_bytes())
    content[offset] ^= 0x40
    log.write_bytes(content)
    assert "head" in wal.examine(log).problem
    log.write_bytes(content[:20])
    assert "head" in wal.examine(log).problem
