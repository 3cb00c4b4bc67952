"""Who calls, and what each may hold of the server's memory: a container, a client, or somebody who has not said who they are."""

from __future__ import annotations

import psutil

from stoker.budget import Account, Budget
from stoker.rpc.http2.limits import CLIENT, CONTAINER, STRANGER, Limits

_MIB = 1 << 20
_LARGEST = 160 * _MIB  # the largest message, and smaller ones beside it
_STRANGERS = 16 * _MIB


class Peer:
    """A container with all its connections, or one connection of a client."""

    def __init__(self, memory: Memory, limits: Limits) -> None:
        self.incoming: Account = memory.incoming.account()
        self.outgoing: Account = memory.outgoing.account()
        self.most_calls = limits.streams
        self.calls = 0
        """Requests that have begun and are not dealt with, though their streams may be gone."""
        self.parked = 0
        """Bytes of unfinished requests that wait for memory."""


class Memory:
    """Bytes of requests on their way in and under way, and of answers that were not read yet, for one kind of peers."""

    def __init__(self, limit: int, each: int, share: int) -> None:
        self.incoming = Budget(limit, each, share)
        self.outgoing = Budget(limit, each, share)


class Memories:
    """For all kinds, apart from each other: containers cannot take what clients need."""

    def __init__(self) -> None:
        most = max(_LARGEST, min(512 * _MIB, psutil.virtual_memory().total // 16))
        self.containers = Memory(most, _LARGEST, 4 * _MIB)
        self.clients = Memory(most, max(_LARGEST, most // 2), 8 * _MIB)
        self.strangers = Memory(_STRANGERS, _STRANGERS // 64, 0)

    def container(self) -> Peer:
        return Peer(self.containers, CONTAINER)

    def client(self) -> Peer:
        return Peer(self.clients, CLIENT)

    def stranger(self) -> Peer:
        return Peer(self.strangers, STRANGER)
