"""One request and its answer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from stoker.budget import Account
from stoker.rpc.http2 import frames
from stoker.rpc.http2.limits import Limits


class Outgoing(Protocol):
    """What a stream sends by; `sender.Sender` is one."""

    def answer_now(self, stream: Stream, head: bytes, data: bytes, end: bytes) -> bool: ...

    async def has_room(self, stream: Stream, size: int) -> bool: ...

    async def is_read(self, stream: Stream) -> bool: ...

    def send(self, stream: Stream, data: bytes) -> None: ...

    def send_head(self, stream: Stream, block: bytes) -> None: ...

    def send_end(self, stream: Stream, block: bytes) -> None: ...


class Carrier(Protocol):
    """The connection that a stream is part of; `connection.Connection` is one."""

    limits: Limits
    owner: object
    """Who is behind it, as the application knows; for the application."""
    proven: object
    """What the peer has shown of itself; for the application."""
    address: str
    """Of the peer, "" on a unix socket."""

    @property
    def sender(self) -> Outgoing: ...

    def write(self, data: bytes) -> None: ...

    def trust(self, limits: Limits, account: Account) -> None:
        """The peer has shown who it is: other limits from now on."""
        ...

    def charge(self, amount: float) -> None:
        """Of the peer's patience. Raises ConnectionFault."""
        ...

    def reset(self, stream: Stream, code: int) -> None:
        """Breaks off a stream."""
        ...


class Stream:
    """`state` belongs to the application. Sending is done by the connection's `Sender`."""

    __slots__ = (
        "charged",
        "closed",
        "connection",
        "credit",
        "end",
        "granted",
        "head_sent",
        "id",
        "is_held_up",
        "length",
        "opened_at",
        "pending",
        "received",
        "remote_ended",
        "room",
        "state",
        "stuck_since",
    )

    def __init__(self, connection: Carrier, id: int, now: float) -> None:
        self.connection = connection
        self.id = id
        self.opened_at = now
        self.state: object = None
        self.closed = False
        # In
        self.received = 0  # bytes
        self.granted = 0  # bytes that may come beyond the window that each stream has
        self.length = -1  # of the request as its headers tell it
        self.remote_ended = False
        self.is_held_up = False  # the application lets nothing more come for now
        # Out
        self.credit = 0  # bytes that may be sent beyond the window that each stream has; negative for what was sent
        self.head_sent = False
        self.pending: deque[memoryview] = deque()  # data that waits for a window, or for the peer to read
        self.charged = 0  # bytes of it, as the account of the connection has them
        self.end = b""  # the header block after the data
        self.room: asyncio.Future[None] | None = None  # somebody waits until nothing is pending
        self.stuck_since = 0.0  # when the last of the data went, while some is pending

    def grant(self, size: int) -> None:
        """Lets the peer send `size` more bytes."""
        if size > 0 and not (self.closed or self.remote_ended):
            self.granted += size
            self.connection.write(frames.window_update(self.id, size))

    def answer_now(self, head: bytes, data: bytes, end: bytes) -> bool:
        """Sends a whole answer (header blocks without their frame heads) if it can go out at once; whether it did."""
        return self.connection.sender.answer_now(self, head, data, end)

    async def answer(self, head: bytes, data: bytes, end: bytes) -> None:
        """A whole answer. Returns once there is memory for it, or nobody to read it."""
        sender = self.connection.sender
        if await sender.has_room(self, len(data)):
            self.send_head(head)
            self.end = end
            sender.send(self, data)

    async def turn(self) -> bool:
        """Waits until the peer has read enough of what it was sent; whether it is still there."""
        return await self.connection.sender.is_read(self)

    def send_head(self, block: bytes) -> None:
        if not self.closed:
            self.head_sent = True
            self.connection.sender.send_head(self, block)

    async def send_data(self, data: bytes) -> None:
        """Sends a piece of the body; waits while the peer takes nothing."""
        sender = self.connection.sender
        if await sender.has_room(self, len(data)):
            sender.send(self, data)
            while self.pending and not self.closed:
                self.room = asyncio.get_running_loop().create_future()
                await self.room

    def send_end(self, block: bytes) -> None:
        """Trailers. Must come after all data was sent."""
        self.connection.sender.send_end(self, block)

    def wake(self) -> None:
        if self.room is not None and not self.room.done():
            self.room.set_result(None)
