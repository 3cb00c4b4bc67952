"""Requests on their way in: pieces become one message, for which there must be memory before the rest of it may come."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from stoker.budget import Turn
from stoker.errors import InvalidArgument, ResourceExhausted
from stoker.rpc.http2.stream import Stream
from stoker.rpc.methods import Caller, Method
from stoker.rpc.peers import Peer
from stoker.rpc.rights import Scope

MAX_MESSAGE = 128 << 20  # generator chunks reach 16 MiB, batches of outputs more
_MAX_OPEN_MESSAGE = 8 << 10  # of who has shown no token: whoever reaches the port may send them
_SMALL = 4 << 10  # messages that are not counted: their number is bounded, and a sign of life must not wait
_MOST_PARKED = 32 << 20  # bytes of a peer that have come before there is memory for the messages they belong to
PREFIX = struct.Struct(">BI")


class Request:
    """A call on its way in. `start` is called when all of it has come and there is memory for it."""

    __slots__ = (
        "_body",
        "_complete",
        "_held",
        "_parked",
        "_size",
        "_start",
        "_turn",
        "caller",
        "has_begun",
        "is_over",
        "method",
        "peer",
        "scope",
        "stream",
        "task",
    )

    def __init__(
        self,
        stream: Stream,
        method: Method,
        caller: Caller,
        scope: Scope | None,
        peer: Peer,
        start: Callable[[Request], None],
    ) -> None:
        """scope: what of the RPC the caller may ask for, None for everything."""
        self.stream = stream
        self.method = method
        self.caller = caller
        self.scope = scope
        self.peer = peer
        self.task: asyncio.Task[None] | None = None  # the call, once it has started
        self.has_begun = False  # the call runs
        self.is_over = False
        self._start = start
        self._body = bytearray()
        self._size = -1  # of the message as its prefix tells it
        self._complete = False
        self._held = 0  # bytes, as the peer's account has them
        self._turn: Turn | None = None
        self._parked = 0

    def add(self, data: bytes, end: bool) -> None:
        """A piece has come. Raises InvalidArgument or ResourceExhausted when the request cannot be taken."""
        self._body += data
        if self._size < 0 and len(self._body) >= PREFIX.size:
            self._announce()
        if self._size >= 0 and len(self._body) > PREFIX.size + self._size:
            raise InvalidArgument(f"{self.method.name} announced {self._size} bytes and brought more.")
        if end:
            self._complete = True
            if self._size < 0:
                raise InvalidArgument(f"{self.method.name} came without a message.")
            if len(self._body) != PREFIX.size + self._size:
                brought = len(self._body) - PREFIX.size
                raise InvalidArgument(f"{self.method.name} announced {self._size} bytes and brought {brought}.")
            if self._turn is None or self._turn.granted:
                self._start(self)

    def message(self) -> Any:
        """The request as a protobuf message, once. Raises InvalidArgument."""
        kind = self.method.request_type
        body = bytes(memoryview(self._body)[PREFIX.size :])
        self._body.clear()
        try:
            return kind.FromString(body)
        except Exception as error:
            raise InvalidArgument(f"{self.method.name} brought bytes that are no {kind.__name__}.") from error

    def release(self) -> None:
        """Gives back the memory."""
        if self._held:
            self.peer.incoming.give(self._held)
            self._held = 0
        elif self._turn is not None:
            self._unpark()
            self.peer.incoming.leave(self._turn)
            self._turn = None

    def _announce(self) -> None:
        compressed, size = PREFIX.unpack_from(self._body)
        if compressed:
            raise InvalidArgument(f"{self.method.name} came compressed, which this server does not read.")
        most = _MAX_OPEN_MESSAGE if self.method.rights.open else MAX_MESSAGE
        if size > most:
            raise InvalidArgument(f"The request is larger than {most >> 10} KiB.")
        self._size = size
        if size <= _SMALL:
            return
        if self.peer.incoming.take(size):
            self._held = size
            self._let_come()
        else:
            self._park()

    def _park(self) -> None:
        """Lets no more come than was allowed to every request, until there is memory."""
        peer = self.peer
        self._parked = min(self._size, self.stream.connection.limits.stream_window)
        if peer.parked + self._parked > _MOST_PARKED:
            self._parked = 0
            raise ResourceExhausted(
                "Too many large requests are under way. Send this one again when some are done.", 1.0
            )
        peer.parked += self._parked
        self.stream.is_held_up = True
        self._turn = peer.incoming.wait(self._size, self._unparked)

    def _unparked(self) -> None:
        self._unpark()
        self.stream.is_held_up = False
        self._let_come()
        if self._complete:
            self._start(self)

    def _unpark(self) -> None:
        self.peer.parked -= self._parked
        self._parked = 0

    def _let_come(self) -> None:
        self.stream.grant(PREFIX.size + self._size - self.stream.connection.limits.stream_window)
