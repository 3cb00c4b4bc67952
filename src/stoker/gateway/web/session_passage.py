"""Requests to an @app.server with sticky sessions: those that start and end a session, and those within one."""

from __future__ import annotations

import json
from typing import Any

import structlog

from stoker import errors
from stoker.gateway.web.passage import Passage
from stoker.services.pools.server_sessions import Session
from stoker.services.pools.servers import Slot

_START, _TERMINATE = b"/_modal/sessions/start", b"/_modal/sessions/terminate"
_log = structlog.get_logger(__name__)
_USUAL_IDLE = 300.0  # seconds
_LONGEST_IDLE = 86_400.0
_NO_SESSION = (
    "This server wants the token of a session, as `Modal-Authorization: Bearer TOKEN`; `server.sessions.start()` gives one. "
    "A session ends when it was idle for its idle_timeout, was terminated, or its container ended."
)
_GONE = "The container of this session is gone; start another session."


class SessionPassage(Passage):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._session: Session | None = None

    def _find_place(self) -> None:
        path = self._server_target(self._place.prefix.encode()).partition(b"?")[0]
        if path in (_START, _TERMINATE):
            if self._method != b"POST":
                self._refuse(405, "Sessions are started and terminated with POST.", [(b"allow", b"POST")])
            elif self._is_admitted():
                self._control(path)
            return
        token = self._named.get(b"modal-authorization", b"").decode("latin-1").removeprefix("Bearer ")
        session = self._gate.sessions.find(self._place.endpoint.function_id, token)
        if session is None:
            self._refuse(401, _NO_SESSION, [(b"www-authenticate", b"Modal-Authorization")])
            return
        self._session, self._was_let_in = session, True
        self._gate.sessions.enter(session)
        self._go(session.slot)

    async def _wait(self) -> Slot:
        raise errors.Unavailable(_GONE)

    def _give_back(self, slot: Slot) -> None:
        if self._session is not None:
            self._gate.sessions.leave(self._session)

    def _control(self, path: bytes) -> None:
        if path == _START:
            self._gate.check_open()
            self._arranging = self._front.loop.create_task(self._start())
            return
        token = self._named.get(b"x-modal-server-session-token", b"").decode("latin-1")
        self._gate.sessions.terminate(self._place.endpoint.function_id, token)
        self._answer(200, "{}", [(b"content-type", b"application/json")])

    async def _start(self) -> None:
        try:
            key = self._named.get(b"x-idempotency-key", b"").decode("latin-1")
            session = await self._gate.sessions.start(
                self._place.endpoint.function_id, self._target, self._idle_timeout(), key
            )
            made = json.dumps({"session_id": session.id, "token": session.token})
            self._answer(200, made, [(b"content-type", b"application/json")])
        except errors.StokerError as error:
            self._fail(error)
        except Exception:
            _log.exception("session not started", label=self._place.endpoint.label)
            self._refuse(502, "The session could not be started.")
        finally:
            self._arranging = None

    def _idle_timeout(self) -> float:
        given = self._named.get(b"x-modal-server-session-idle-timeout", b"")
        if not given:
            return _USUAL_IDLE
        if not given.isdigit() or len(given) > 9 or not 0 < int(given) <= _LONGEST_IDLE:
            raise errors.InvalidArgument(
                f"The idle timeout of a session is a whole number of seconds from 1 to {_LONGEST_IDLE:.0f}."
            )
        return float(given)
