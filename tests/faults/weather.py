"""A storm: one harm after another while a client maps inputs through functions."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import RunningServer

LONG = os.environ.get("STOKER_FAULTS") == "long"
SEED = int(os.environ.get("STOKER_SEED", "1"))
HERE = Path(__file__).parent

FUNCTIONS = ("plain", "concurrent", "batched", "chatty") if LONG else ("plain", "chatty")
INPUTS = 400 if LONG else 30  # through each of them
PACE, MOST = (5.0, None) if LONG else (0.7, 3)
"""Of harms that need no new containers: seconds between two, on the average, and how many."""

only_long = pytest.mark.skipif(not LONG, reason="takes minutes: make faults")

Harm = Callable[[random.Random], bool]
"""Harms something of its choice, and may take its time; False when nothing was there to be harmed."""


class Storm(threading.Thread):
    """Does one random harm after another until `calm` is called. `seed` decides which and when."""

    def __init__(
        self, harms: Mapping[str, Harm], seed: int = SEED, *, pace: float | None = None, most: int | None = None
    ) -> None:
        """pace: seconds between two, on the average; None for as fast as containers can come back. most: how many are done; None for no end."""
        super().__init__(daemon=True)
        self._random = random.Random(seed)
        self._harms = harms
        self._pace = max(1.0, _start_seconds() / 0.5) if pace is None else pace
        self._most = most
        self._calm = threading.Event()
        self._error: BaseException | None = None
        self.done: list[str] = []

    def calm(self) -> None:
        """Waits for the end of the harm that is being done."""
        self._calm.set()
        self.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        rest: list[str] = []  # of a round in which each harm has its turn
        try:
            while len(self.done) != self._most and not self._calm.wait(self._pace * self._random.uniform(0.4, 1.6)):
                rest = rest or self._random.sample(sorted(self._harms), len(self._harms))
                name = rest.pop()
                if self._harms[name](self._random):
                    self.done.append(name)
        except BaseException as error:
            self._error = error


def weather(server: RunningServer, storm: Storm, inputs: int, *functions: str, url: str = "") -> None:
    """Maps so many inputs through each of the functions of app.py in a storm; every result must arrive once and be right.

    url: where the client finds the server, if not where everyone does."""
    server.modal("deploy", str(HERE / "app.py"))
    caller = subprocess.Popen(
        [sys.executable, str(HERE / "caller.py"), str(inputs), *functions],
        env=server.env | ({"MODAL_SERVER_URL": url} if url else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )
    assert caller.stdout is not None
    begun = caller.stdout.readline()
    storm.start()
    try:
        said, _ = caller.communicate(timeout=1400 if LONG else 240)
    finally:
        caller.kill()
        storm.calm()
    output = (begun + said).decode()
    print(f"seed {SEED}, harms {Counter(storm.done)}\n{output}")
    assert caller.returncode == 0, f"seed {SEED}, harms {storm.done}\n{output}\n{server.log_tail()}"
    assert storm.done, "nothing went wrong, so nothing was tested"


def wait_for(what: Callable[[], object], wanted: object, seconds: float = 60) -> None:
    """Fails with what there is when it does not become what is wanted."""
    deadline = time.monotonic() + seconds
    while (found := what()) != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found == wanted


def _start_seconds() -> float:
    """How long a Python program with the client takes to start here and now. Harm must not come faster than containers do: a function
    whose containers never come up is given up, rightly."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import modal"], check=True)
    return time.monotonic() - start
