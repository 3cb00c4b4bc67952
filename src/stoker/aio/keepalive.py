"""Listening sockets whose connections end when the other machine is gone without a word: asleep, unplugged, behind a router that forgot it.

Without this nothing would end them where we only wait for what comes: each would hold its file, its long polls, or its place in a container.
"""

from __future__ import annotations

import socket
from typing import Any

_IDLE, _INTERVAL = 60, 15  # seconds of silence until the first probe, and between probes
_PROBES = 4  # that may go unanswered


def notice_lost_peers(listener: Any) -> None:
    """To be called before connections come; they inherit it. `listener` is a TCP socket, or what an event loop has in place of one."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # macOS has other names, and two hours
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
