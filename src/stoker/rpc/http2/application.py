"""What is served over HTTP/2."""

from __future__ import annotations

from typing import Protocol

from stoker.rpc.http2.headers import Headers
from stoker.rpc.http2.stream import Stream


class Application(Protocol):
    """What is served. One instance per connection side, shared by its streams."""

    def begin(self, stream: Stream, headers: Headers) -> None:
        """A request has begun; its body follows by `receive`."""
        ...

    def receive(self, stream: Stream, data: bytes, end: bool) -> None:
        """A piece of a request's body."""
        ...

    def abandon(self, stream: Stream) -> None:
        """The peer has cancelled the stream, or is gone."""
        ...
