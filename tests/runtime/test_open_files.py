"""Which files a process has open, as another one sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from stoker.runtime.open_files import open_by

PROGRAM = "import os, sys; f = open(sys.argv[1]); os.chdir(sys.argv[2]); print('ready', flush=True); sys.stdin.read()"


def test_open_files_and_working_directories_below_a_place(tmp_path: Path) -> None:
    place, beside = tmp_path / "vol", tmp_path / "volume"
    for directory in (place / "sub", beside):
        directory.mkdir(parents=True)
        (directory / "f").touch()

    def found(path: Path, cwd: Path) -> list[str]:
        command = [sys.executable, "-c", PROGRAM, str(path), str(cwd)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            return open_by([psutil.Process(process.pid)], [str(place)])

    assert found(place / "sub" / "f", tmp_path) == [str(place / "sub" / "f")]
    assert found(beside / "f", place) == [str(place)]
    assert found(beside / "f", beside) == []


def test_a_process_that_is_gone_has_nothing_open(tmp_path: Path) -> None:
    process = psutil.Popen([sys.executable, "-c", ""])
    process.wait()
    assert open_by([process], [str(tmp_path)]) == []
