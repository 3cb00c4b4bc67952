"""An honest client in a process of its own: pings without a pause, and a call now and then. Told to report, it prints how it fared.

`watcher.py PID HOST PORT HEADERS`, the latter as JSON. A line on the standard input asks for a report, which is a line of JSON.

How long a ping takes depends on what else the machine does. So the time that counts is the processor time which the server's event loop has
used up while the ping waited: for so long it did other things without a break.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
from pathlib import Path

from stoker.rpc.http2 import frames
from tests.fuzz.grammar import GREETING, opened

_PATIENCE = 30.0  # seconds until an honest client would give up
_PAUSE = 0.003


def main(pid: int, host: str, port: int, headers: list[tuple[str, str]]) -> None:
    used = Path(f"/proc/{pid}/task/{pid}/schedstat")  # nanoseconds on a processor, and others
    longest, answers, number, heard = 0.0, 0, 1, b""
    with socket.create_connection((host, port), timeout=_PATIENCE) as peer:
        peer.sendall(GREETING + opened(headers, 0, "ClientHello", b""))
        while True:
            begun = int(used.read_text().split()[0])
            ping = struct.pack(">Q", number)
            peer.sendall(frames.frame(frames.PING, 0, 0, ping))
            if number % 20 == 0:
                peer.sendall(opened(headers, number, "ClientHello", b""))
            while frames.frame(frames.PING, frames.ACK, 0, ping) not in heard:
                piece = peer.recv(1 << 20)
                if not piece:
                    raise ConnectionError("the connection was closed")
                heard = heard[-100:] + piece
                answers += piece.count(b"grpc-status\x010")
            longest = max(longest, (int(used.read_text().split()[0]) - begun) / 1e9)
            number += 1
            if select.select([sys.stdin], [], [], _PAUSE)[0]:
                if not sys.stdin.readline():
                    return
                print(json.dumps({"longest": longest, "answers": answers}), flush=True)
                longest, answers = 0.0, 0


if __name__ == "__main__":
    try:
        main(
            int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), [(name, value) for name, value in json.loads(sys.argv[4])]
        )
    except OSError as error:
        print(json.dumps({"problem": f"{type(error).__name__}: {error}"}), flush=True)
