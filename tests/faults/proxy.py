"""A way between client and server that breaks."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time


class FlakyProxy:
    """A TCP proxy between client and server that can cut all connections at once."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._pairs: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, _: random.Random | None = None) -> bool:
        """Harm: ends every connection, if there is one."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for end in pairs:
            _shut(end)
        return bool(pairs)

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
