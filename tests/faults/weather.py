"""What goes wrong in a storm: containers killed and frozen, connections cut, the server killed and started again."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil

from tests.conftest import RunningServer, start_server

LOST_AFTER = 20.0
"""Seconds of silence after which a server in a storm looks at a container (`container_lost_seconds`); they speak every 15."""


class FlakyProxy:
    """A TCP proxy between client and server that can cut all connections at once."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._pairs: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Ends every connection; returns how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for end in pairs:
            _shut(end)
        return len(pairs) // 2

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        """Connects a client; while the server is down it waits, as behind a socket that a supervisor keeps open."""
        for _ in range(200):
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
                break
            except OSError:
                time.sleep(0.1)
        else:
            return _shut(near)
        far.settimeout(None)
        with self._lock:
            self._pairs += [near, far]
        threading.Thread(target=_pump, args=(near, far), daemon=True).start()
        _pump(far, near)


class Storm(threading.Thread):
    """Does one random harm after another until `calm` is called. `seed` decides which and when."""

    def __init__(self, server: RunningServer, proxy: FlakyProxy, port: int, seed: int, harms: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._proxy = proxy
        self._port = port
        self._random = random.Random(seed)
        self._harms = harms
        self._pace = max(1.0, _start_seconds() / 0.5)
        self._calm = threading.Event()
        self._no_frost_before = 0.0
        self.done: list[str] = []

    def calm(self) -> None:
        self._calm.set()
        self.join()

    def run(self) -> None:
        while not self._calm.wait(self._pace * self._random.uniform(0.4, 1.6)):
            harm = self._random.choice(self._harms)
            if getattr(self, f"_{harm}")():
                self.done.append(harm)

    def _kill_container(self) -> bool:
        containers = container_processes(self._server)
        if not containers:
            return False
        try:
            self._random.choice(containers).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            return False
        return True

    def _freeze_container(self) -> bool:
        """One after the other: a frozen one is noticed after a while, and where all are frozen all the time nothing gets done."""
        if time.monotonic() < self._no_frost_before:
            return False
        containers = container_processes(self._server)
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            self._random.choice(containers).send_signal(signal.SIGSTOP)
            self._no_frost_before = time.monotonic() + LOST_AFTER
            return True
        return False

    def _cut_connections(self) -> bool:
        return self._proxy.cut() > 0

    def _kill_server(self) -> bool:
        restart(self._server, self._port)
        return True


def _start_seconds() -> float:
    """How long a Python program with the client takes to start here and now. Harm must not come faster than containers do: a function
    whose containers never come up is given up, rightly."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import modal"], check=True)
    return time.monotonic() - start


def restart(server: RunningServer, port: int) -> None:
    """Kills a server without warning and starts another on the same data and port."""
    process = psutil.Process(server.pid)
    process.kill()
    process.wait(10)
    for attempt in range(5):
        try:
            start_server(server.data, server.runtime, port=port, container_lost_seconds=str(LOST_AFTER))
            return
        except BaseException:
            if attempt == 4:
                raise
            time.sleep(0.5)


def container_processes(server: RunningServer) -> list[psutil.Process]:
    """The Python processes of a server's containers."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "modal._container_entrypoint" in process.cmdline():
                found.append(process)
    return found


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
    except OSError:
        pass
    _shut(source)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
