"""Whether what a peer has begun goes on."""

from __future__ import annotations

from stoker.rpc.http2.limits import LEAST_BYTES


class Progress:
    """`brought`: bytes of requests that have come."""

    def __init__(self, now: float) -> None:
        self.brought = 0
        self._since, self._then = now, 0  # when so many had come

    def is_enough(self, now: float, seconds: float, *, unfinished: bool) -> bool:
        """Whether something came in the last `seconds`, or nothing has to. unfinished: a request, a frame or a header block is."""
        if not unfinished or self.brought - self._then >= LEAST_BYTES:
            self._since, self._then = now, self.brought
        return now - self._since <= seconds
