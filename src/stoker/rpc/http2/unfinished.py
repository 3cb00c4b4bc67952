"""Streams that ended here before the peer had ended its request. It may not know yet and send on; on any other ended stream it may not."""

from __future__ import annotations

_MOST = 1_024


class Unfinished:
    """Knows the last ones. Of those before, anything is put up with."""

    def __init__(self) -> None:
        self._ids: dict[int, None] = {}
        self._forgotten = 0  # the highest that had to make room

    def add(self, id: int) -> None:
        self._ids[id] = None
        if len(self._ids) > _MOST:
            oldest = next(iter(self._ids))
            del self._ids[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def expects(self, id: int) -> bool:
        """Whether the peer may still send on that ended stream."""
        return id in self._ids or id <= self._forgotten

    def end(self, id: int) -> None:
        """The peer has ended it as well."""
        self._ids.pop(id, None)
