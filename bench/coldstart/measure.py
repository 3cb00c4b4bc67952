"""The client's side of the measurement; `run.py` starts it against a server. Prints one JSON document: seconds from call to verified answer.

measure.py HTTP_URL HOST_PYTHON DATA_DIR RESTORES OTHERS NAME,NAME,...
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import loads
import modal
from modal._utils.async_utils import synchronizer
from modal.client import _Client
from modal_proto import api_pb2

GATEWAY, HOST_PYTHON, DATA = sys.argv[1], sys.argv[2], Path(sys.argv[3])
RESTORES, OTHERS, NAMES = int(sys.argv[4]), int(sys.argv[5]), sys.argv[6].split(",")
AT_ONCE, HOLD, PAUSE = 4, 2.0, 1.5
"""Containers started at once, the seconds for which a call keeps one busy, so that each answers one, and those between a container's end and
the next start."""

HEADERS = {
    "Modal-Token-Id": os.environ["MODAL_TOKEN_ID"],
    "Modal-Token-Secret": os.environ["MODAL_TOKEN_SECRET"],
}
STATUS = urllib.request.Request(f"{GATEWAY}/_stoker/status", headers=HEADERS)


@dataclass
class Row:
    """How one kind of start went; `load` is the machine's load at its end."""

    seconds: list[float] = field(default_factory=list)
    failures: int = 0
    load: float = 0.0

    def fill(self, count: int, take: Callable[[], list[float]]) -> Row:
        while len(self.seconds) + self.failures < count:
            try:
                self.seconds += take()
            except Exception as error:
                self.failures += 1
                print(f"  failed: {error}", file=sys.stderr)
        self.load = round(os.getloadavg()[0], 1)
        return self


class Start:
    """One kind of load, on the host and in containers."""

    def __init__(self, name: str) -> None:
        app = f"bench-coldstart-{'heavy' if name in loads.HEAVY else 'light'}"
        self.name = name
        self.classes = {kind: modal.Cls.from_name(app, kind)(what=name) for kind in ("Restored", "Loaded")}
        self.expected, _ = self._run_on_host()

    def on_host(self) -> list[float]:
        digest, seconds = self._run_on_host()
        self._verify(digest)
        return [seconds]

    def call(self, kind: str) -> list[float]:
        """Calls with no container running, checks the answer, and ends the container."""
        start = time.perf_counter()
        digest, task_id = self.classes[kind].call.remote()
        seconds = time.perf_counter() - start
        end([task_id])
        self._verify(digest)
        return [seconds]

    def call_at_once(self) -> list[float]:
        """Asks for several containers at the same time, and calls each."""
        cls = self.classes["Restored"]
        start = time.perf_counter()
        # Without this the autoscaler starts fewer at once on a busy machine, and lets the first ones answer several calls.
        cls.update_autoscaler(min_containers=AT_ONCE)

        def one(_: int) -> tuple[float, str, str]:
            digest, task_id = cls.call.remote(HOLD)
            return time.perf_counter() - start - HOLD, digest, task_id

        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = list(threads.map(one, range(AT_ONCE)))
        tasks = {task_id for _, _, task_id in answers}
        cls.update_autoscaler(min_containers=0)
        end(sorted(tasks))
        for _, digest, _ in answers:
            self._verify(digest)
        if len(tasks) < AT_ONCE:
            raise RuntimeError(f"{AT_ONCE} calls were answered by only {len(tasks)} containers")
        return [seconds for seconds, _, _ in answers]

    def _run_on_host(self) -> tuple[str, float]:
        start = time.perf_counter()
        command = [HOST_PYTHON, loads.__file__, self.name]
        done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        return done.stdout.strip(), seconds

    def _verify(self, digest: str) -> None:
        if digest != self.expected:
            raise RuntimeError(f"{self.name}: a wrong answer")


def end(task_ids: list[str]) -> None:
    """Ends containers and waits until they are gone, so that their end does not disturb the next start, and for a moment, as cold starts do
    not come one upon the other: meanwhile the server prepares the next sandbox (STOKER_PREPARED_SANDBOXES=0 keeps it from that)."""
    for task_id in task_ids:
        stop(task_id)
    while any(task_id in urllib.request.urlopen(STATUS).read().decode() for task_id in task_ids):
        time.sleep(0.05)
    time.sleep(PAUSE)


@synchronizer.create_blocking
async def stop(task_id: str) -> None:
    """`modal container stop`, without starting a program that would compete for the processors."""
    client = await _Client.from_env()
    await client._stub.ContainerStop(api_pb2.ContainerStopRequest(task_id=task_id))


def forget(*directories: Path) -> None:
    """Drops the files below the directories from the page cache, and no others: this machine may not be ours alone."""
    for path in files_below(directories):
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def files_below(directories: tuple[Path, ...]) -> Iterator[str]:
    for directory in directories:
        for parent, _, names in os.walk(directory):
            yield from (os.path.join(parent, name) for name in names)


def measure(name: str) -> dict[str, Row]:
    start = Start(name)
    images, snapshots = DATA / "images", DATA / "snapshots"
    host_files = Path(HOST_PYTHON).parent.parent

    def cold(what: Callable[[], list[float]], *directories: Path) -> Callable[[], list[float]]:
        def take() -> list[float]:
            forget(*directories)
            return what()

        return take

    rows: dict[str, Row] = {}

    def fill(how: str, count: int, take: Callable[[], list[float]]) -> None:
        rows[how] = Row().fill(count, take)
        print(f"{name}, {how}: {' '.join(f'{s:.2f}' for s in sorted(rows[how].seconds))}", file=sys.stderr, flush=True)

    fill("host", OTHERS, start.on_host)
    fill("host, dropped", OTHERS, cold(start.on_host, host_files))
    start.call("Loaded")  # brings the image's files into the page cache, as the host's first run did its own
    fill("none", OTHERS, lambda: start.call("Loaded"))
    fill("none, dropped", OTHERS, cold(lambda: start.call("Loaded"), images))
    fill("saving", 1, lambda: start.call("Restored"))
    fill("restored", RESTORES, lambda: start.call("Restored"))
    fill("restored, dropped", RESTORES, cold(lambda: start.call("Restored"), snapshots, images))
    fill(f"restored, {AT_ONCE} at once", RESTORES, start.call_at_once)
    return rows


print(json.dumps({name: {how: asdict(row) for how, row in measure(name).items()} for name in NAMES}))
