"""The connections of a listener: how many there may be, in all and from one address, and an eye on those that take too long."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Protocol

import structlog

from stoker import descriptors

LOOK_SECONDS = 5.0  # between two looks at all connections
_SHED = 16  # when there is no room, a sixteenth of the connections that do nothing makes it
_LOG_SECONDS = 60.0  # a crowd is logged once in this time
_RESCAN_SECONDS = 0.1  # after nobody could be asked to go
_log = structlog.get_logger(__name__)


class Kept(Protocol):
    """A connection."""

    @property
    def idle_since(self) -> float | None:
        """Since when (in the event loop's time) it could be ended without harm; None when it could not."""
        ...

    def look(self, now: float) -> None:
        """Ends what takes too long."""
        ...

    def turn_away(self, reason: str) -> None:
        """Ends the connection: there is no room for it."""
        ...


class Unread:
    """Watches whether a peer reads what was sent."""

    def __init__(self, now: float) -> None:
        self._size = 0  # bytes, when they were last looked at
        self._since = now

    def seconds(self, transport: asyncio.WriteTransport, now: float) -> float:
        """For how long something has been there of which the peer took nothing."""
        size = transport.get_write_buffer_size()
        if not size or size < self._size:
            self._since = now
        self._size = size
        return now - self._since


class Total:
    """Connections of several listeners together."""

    def __init__(self, most: int, share: int) -> None:
        """share: connections that a listener has room for whatever the others have."""
        self.most = most
        self.share = share
        self.count = 0


class Connections:
    """Those of one listener. Who comes when there is no room takes the place of who has done nothing for longest."""

    def __init__(self, name: str, most: int, *, per_address: int = 0, total: Total | None = None) -> None:
        """name: for the log. per_address: 0 for no limit; addresses of this machine have none, for a proxy may be behind them."""
        self._name = name
        self._most = most
        self._per_address = per_address
        self._total = total
        self._all: dict[Kept, str] = {}
        self._by_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._logged_at = -_LOG_SECONDS
        self._scan_at = 0.0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Kept]:
        return iter(list(self._all))

    def add(self, connection: Kept, address: str = "") -> bool:
        """A connection has come; whether it may stay. Otherwise it was turned away."""
        if self._per_address and self._by_address[address] >= self._per_address and not _is_local(address):
            return self._refuse(connection, f"too many connections from {address}")
        if self._is_full() and not self._make_room():
            return self._refuse(connection, "too many connections")
        self._all[connection] = address
        self._by_address[address] += 1
        if self._total is not None:
            self._total.count += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        return True

    def remove(self, connection: Kept) -> None:
        """A connection has ended. No error when it was turned away."""
        address = self._all.pop(connection, None)
        if address is None:
            return
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        if self._total is not None:
            self._total.count -= 1
        if not self._all and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def warn(self, event: str, **details: object) -> None:
        """Writes a line to the log, unless there was one a short while ago: what comes from peers may come without end."""
        if time.monotonic() - self._logged_at >= _LOG_SECONDS:
            self._logged_at = time.monotonic()
            _log.warning(event, listener=self._name, **details)

    def _is_full(self) -> bool:
        mine, total = len(self._all), self._total
        return mine >= self._most or (total is not None and total.count >= total.most and mine >= total.share)

    def _make_room(self) -> bool:
        """Ends those that have done nothing for longest; whether there were any."""
        now = asyncio.get_running_loop().time()
        if now < self._scan_at:
            return False
        idle = [(since, connection) for connection in self._all if (since := connection.idle_since) is not None]
        idle.sort(key=lambda entry: entry[0])
        for _, connection in idle[: max(1, len(self._all) // _SHED)]:
            self.remove(connection)
            connection.turn_away("its place is needed")
        if not idle:
            self._scan_at = now + _RESCAN_SECONDS
        self.warn(
            "no room for more connections", open=len(self._all), made_way=min(len(idle), 1 + len(self._all) // _SHED)
        )
        return bool(idle)

    def _refuse(self, connection: Kept, reason: str) -> bool:
        self.warn("connection turned away", reason=reason, open=len(self._all))
        connection.turn_away(reason)
        return False

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_SECONDS, self._look)
        for connection in self:
            connection.look(loop.time())
        if self._all and descriptors.are_scarce():
            self.warn("file descriptors are running out", limit=descriptors.limit(), open=len(self._all))
            self._make_room()


def _is_local(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
