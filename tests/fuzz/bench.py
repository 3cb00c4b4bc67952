"""A server under fire, and what it costs: whether it answers others meanwhile, its memory, its processor time, and how long it stood still."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from stoker.rpc.http2 import frames
from tests.fuzz.grammar import Headers

_PATIENCE = 30.0  # seconds until an honest client would give up
_SOON = 0.1
_LAST = frames.frame(frames.PING, 0, 0, b"the last")
_LAST_CONFIRMED = frames.frame(frames.PING, frames.ACK, 0, b"the last")
MIB = 1 << 20


@dataclass
class Cost:
    """Of one kind of input."""

    sent: int = 0  # bytes the server has taken
    cpu: float = 0.0  # seconds of its processor time
    still: float = (
        0.0  # seconds of processor time that the event loop used at most between two answers to an honest client
    )
    memory: int = 0  # bytes by which the server has grown at most

    def add(self, other: Cost) -> None:
        self.sent += other.sent
        self.cpu += other.cpu
        self.still = max(self.still, other.still)
        self.memory = max(self.memory, other.memory)

    def __str__(self) -> str:
        mib = max(self.sent, 1) / MIB
        return (
            f"{mib:6.1f} MiB, {self.cpu:5.1f} s of processor time ({self.cpu / mib:5.2f} s per MiB), "
            f"{self.still * 1e3:4.0f} ms of it without a break, {self.memory / MIB:+4.0f} MiB"
        )


class Target:
    """One server, the ways to it, and an honest client that uses it all the time."""

    def __init__(self, pid: int, address: tuple[str, int], headers: Headers) -> None:
        """headers: those of the honest client."""
        self.address = address
        self._process = psutil.Process(pid)
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.watcher", str(pid), address[0], str(address[1]), json.dumps(headers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._report()

    def close(self) -> None:
        self._watcher.communicate(timeout=_PATIENCE)

    def fire(self, data: bytes, at: tuple[str, int] | Path) -> int:
        """Sends bytes and waits until the server has dealt with them or ends the connection; how many it took."""
        taken = 0
        with _connected(at) as peer, contextlib.suppress(OSError):
            taken = _exchange(peer, data + _LAST, _SOON, _LAST_CONFIRMED)
            peer.shutdown(socket.SHUT_WR)
            _exchange(peer, b"", _PATIENCE, b"")
        return taken

    @contextlib.contextmanager
    def measured(self) -> Iterator[Cost]:
        """What is done meanwhile. Raises AssertionError when the honest client is not served."""
        cost = Cost()
        self._report()
        before, grown = self._cpu(), self._process.memory_info().rss
        try:
            yield cost
        finally:
            cost.cpu = self._cpu() - before
            cost.memory = self._process.memory_info().rss - grown
            cost.still = self._report()

    def _report(self) -> float:
        """The longest wait of the honest client since the last report, in seconds."""
        assert self._watcher.stdin is not None and self._watcher.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._watcher.stdin.write("report\n")
            self._watcher.stdin.flush()
        report = json.loads(self._watcher.stdout.readline())
        assert "problem" not in report, f"an honest client was not served: {report['problem']}"
        return float(report["longest"])

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


class Recorder(threading.Thread):
    """Stands between a client and a server, and notes what the client says."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.said: list[bytearray] = []  # by connection
        self._address = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._address)
            said = bytearray()
            self.said.append(said)
            threading.Thread(target=_copy, args=(client, server, said), daemon=True).start()
            threading.Thread(target=_copy, args=(server, client, None), daemon=True).start()

    def close(self) -> None:
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket, note: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
            if note is not None:
                note += data
        target.shutdown(socket.SHUT_WR)


def _connected(at: tuple[str, int] | Path) -> socket.socket:
    if isinstance(at, Path):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(_PATIENCE)
        peer.connect(str(at))
    else:
        peer = socket.create_connection(at, timeout=_PATIENCE)
    return peer


def _exchange(peer: socket.socket, data: bytes, silence: float, last: bytes) -> int:
    """Sends and receives until the other end closes, has said `last`, or is silent for so many seconds; how much was sent."""
    view, taken, heard = memoryview(data), 0, b""
    peer.setblocking(False)
    with contextlib.suppress(ConnectionError):
        while True:
            unsent = [peer] if taken < len(data) else []
            readable, writable, _ = select.select([peer], unsent, [], _PATIENCE if unsent else silence)
            if writable:
                taken += peer.send(view[taken : taken + (1 << 16)])
            piece = peer.recv(1 << 20) if readable else b""
            heard = heard[-len(last) :] + piece
            if (readable and not piece) or not (readable or writable) or (last and last in heard):
                break
    return taken
