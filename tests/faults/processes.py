"""Harm to processes: containers that are killed and frozen, the server frozen, or killed and started again."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil

from tests.conftest import RunningServer, start_server

LOST_AFTER = 20.0
"""Seconds of silence after which a server in a storm looks at a container (`container_lost_seconds`); they speak every 15."""


class Containers:
    """Those of one server."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._no_frost_before = 0.0

    def kill(self, choice: random.Random) -> bool:
        return self._signal(choice, signal.SIGKILL)

    def freeze(self, choice: random.Random) -> bool:
        """One after the other: a frozen one is noticed after a while, and where all are frozen all the time nothing gets done."""
        if time.monotonic() < self._no_frost_before or not self._signal(choice, signal.SIGSTOP):
            return False
        self._no_frost_before = time.monotonic() + LOST_AFTER
        return True

    def _signal(self, choice: random.Random, number: int) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            choice.choice(container_processes(self._server)).send_signal(number)
            return True
        return False


class Server:
    """The server itself. port, settings: those that it was started with."""

    def __init__(self, server: RunningServer, port: int, **settings: str) -> None:
        self._server = server
        self._port = port
        self._settings = settings

    def kill(self, _: random.Random) -> bool:
        """Without warning; another one is started on the same data and port."""
        process = psutil.Process(self._server.pid)
        process.kill()
        process.wait(10)
        for attempt in range(5):
            try:
                start_server(self._server.data, self._server.runtime, port=self._port, **self._settings)
                break
            except BaseException:
                if attempt == 4:
                    raise
                time.sleep(0.5)
        return True

    def freeze(self, choice: random.Random) -> bool:
        """For a while in which the pipes that containers print into run full."""
        with frozen([psutil.Process(self._server.pid)]):
            time.sleep(choice.uniform(0.5, 3.0))
        return True


@contextmanager
def frozen(processes: Iterable[psutil.Process]) -> Iterator[None]:
    stopped = []
    try:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                stopped.append(process)
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def container_processes(server: RunningServer) -> list[psutil.Process]:
    """gVisor's kernels and file servers of a server's containers, or their Python where they are plain processes."""
    return list(_sandboxes(server) if server.runtime == "runsc" else _programs(server))


def _programs(server: RunningServer) -> Iterator[psutil.Process]:
    for process in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "modal._container_entrypoint" in process.cmdline():
                yield process


def _sandboxes(server: RunningServer) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words and words[0] in ("runsc-sandbox", "runsc-gofer") and str(server.data) in " ".join(words):
                yield process
