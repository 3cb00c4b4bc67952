"""Sticky sessions of @app.server: all requests with the token of a session go to the one container that holds it.

A session holds a slot of its container from its start to its end, so that it counts as load and its container is not scaled down.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from weakref import WeakValueDictionary

from stoker.errors import NotFound, Unavailable
from stoker.services.functions.spec import ServerSpec
from stoker.services.pools.servers import Servers, Slot

_LONGEST_WAIT = 25 * 60.0  # seconds for room, as long as the client asks


@dataclass(eq=False)
class Session:
    """One sticky session and the slot that it holds. `token`: what its requests show. `over`: it takes no new ones."""

    id: str
    token: str
    function_id: str
    slot: Slot
    idle_timeout: float  # seconds without a request until it ends
    key: str = ""  # by which its start may be repeated
    open: int = 0  # requests under way
    alarm: asyncio.TimerHandle | None = None
    over: bool = False


class ServerSessions:
    """All of them. They live as long as their containers, and no longer than the server."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._by_token: dict[str, Session] = {}
        self._by_key: dict[tuple[str, str], Session] = {}
        # Locks by key, as long as somebody has one.
        self._starting: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def start(self, function_id: str, server: ServerSpec, idle_timeout: float, key: str = "") -> Session:
        """Waits for a container with room, also while all are full. key: a second start with the same one gives the same session.

        Raises FailedPrecondition when no container can start, and Unavailable when none had room in time."""
        if not key:
            return await self._start(function_id, server, idle_timeout, key)
        # A repeat also comes while the first attempt still waits for room.
        async with self._starting.setdefault((function_id, key), asyncio.Lock()):
            earlier = self._by_key.get((function_id, key))
            return earlier or await self._start(function_id, server, idle_timeout, key)

    def find(self, function_id: str, token: str) -> Session | None:
        session = self._by_token.get(token)
        return session if session is not None and session.function_id == function_id else None

    def terminate(self, function_id: str, token: str) -> None:
        """New requests are rejected; those under way go on. Raises NotFound."""
        session = self.find(function_id, token)
        if session is None:
            raise NotFound("There is no such session: it has ended, or this server has none with that token.")
        self._end(session)

    def enter(self, session: Session) -> None:
        """A request begins."""
        session.open += 1
        if session.alarm is not None:
            session.alarm.cancel()
            session.alarm = None

    def leave(self, session: Session) -> None:
        """A request is over."""
        session.open -= 1
        if session.open == 0:
            self._give_back(session) if session.over else self._watch(session)

    async def _start(self, function_id: str, server: ServerSpec, idle_timeout: float, key: str) -> Session:
        slot = self._servers.take_free(function_id, server)
        if slot is None:
            slot = await self._servers.wait(function_id, server, longest=_LONGEST_WAIT)
        session = Session(
            f"ss-{secrets.token_hex(11)}", secrets.token_urlsafe(32), function_id, slot, idle_timeout, key
        )
        self._by_token[session.token] = session
        if key:
            self._by_key[function_id, key] = session
        self._watch(session)
        self._servers.when_lost(slot, lambda: self._end(session))
        if session.over:
            raise Unavailable("The container of the session ended as it was started; start it again.")
        return session

    def _watch(self, session: Session) -> None:
        session.alarm = asyncio.get_running_loop().call_later(session.idle_timeout, self._end, session)

    def _end(self, session: Session) -> None:
        if session.over:
            return
        session.over = True
        if session.alarm is not None:
            session.alarm.cancel()
        del self._by_token[session.token]
        self._by_key.pop((session.function_id, session.key), None)
        if session.open == 0:
            self._give_back(session)

    def _give_back(self, session: Session) -> None:
        self._servers.give_back(session.slot)
