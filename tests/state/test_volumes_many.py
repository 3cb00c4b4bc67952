"""A volume of thousands of files. STOKER_VOLUME_FILES=100000 for the long form; `-s` shows the figures."""

from __future__ import annotations

import os
import time
from pathlib import Path

import modal
import psutil

from tests.conftest import RunningServer

from .test_volumes_mounted import Run, client, run, volume  # noqa: F401 (fixtures)

FILES = int(os.environ.get("STOKER_VOLUME_FILES", "5000"))


def test_many_files(run: Run, volume: modal.Volume, sandboxes: RunningServer, tmp_path: Path) -> None:  # noqa: F811
    for number in range(FILES):
        path = tmp_path / "many" / f"{number % 100:02}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number}")
    process, seconds = psutil.Process(sandboxes.pid), {}
    before = process.memory_info().rss

    def clock(what: str, begin: float) -> None:
        seconds[what] = round(time.perf_counter() - begin, 1)

    begin = time.perf_counter()
    sandboxes.modal("volume", "put", "mounted", str(tmp_path / "many"), "/many", timeout=3000)
    clock("put", begin)
    begin = time.perf_counter()
    names = {entry.path for entry in volume.listdir("/many", recursive=True) if entry.type.name == "FILE"}
    clock("ls", begin)
    assert names == {f"many/{number % 100:02}/{number}.txt" for number in range(FILES)}
    program = """
import os
result = {}
for directory, _, names in os.walk('/data/many'):
    for name in names:
        result[int(name[:-4])] = open(f'{directory}/{name}').read()
result = all(text == f'file {number}' for number, text in result.items()) and len(result)
"""
    begin = time.perf_counter()
    assert run("one", program) == FILES
    clock("read in a container", begin)
    begin = time.perf_counter()
    sandboxes.modal("volume", "rm", "-r", "mounted", "many", timeout=600)
    clock("rm", begin)
    assert "many" not in {entry.path for entry in volume.listdir("/")}
    grown = (process.memory_info().rss - before) >> 20
    print(f"{FILES} files: {seconds} s; the server's memory grew by {grown} MiB")
    assert grown < 64 + FILES // 500  # MiB: what it remembers of uploads, and one request with all their names
