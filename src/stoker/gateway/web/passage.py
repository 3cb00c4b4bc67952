"""One request to an @app.server, passed to the port of a container and back: no call in between, and nothing parsed twice.

It stands where uvicorn's cycle of a request would, so that both kinds of request may follow each other on one connection.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any

import structlog

from stoker import errors
from stoker.gateway.web.admission import NO_TOKEN, refusal
from stoker.gateway.web.front import Front, Gate
from stoker.gateway.web.heads import (
    REQUEST_ID,
    HeaderList,
    answered,
    asking_for,
    forwarded,
    own_answer,
    path_of,
    request_id,
    with_origin,
    written,
)
from stoker.gateway.web.relocation import relocated
from stoker.gateway.web.upstream import Upstream
from stoker.services.apps.endpoints import Place
from stoker.services.functions.spec import ServerSpec
from stoker.services.pools.servers import Slot
from stoker.services.watch.server_requests import CLIENT_LEFT

_ATTEMPTS = 3  # to find a container that takes connections
_HELD = 64 << 10  # bytes of a body that are held until there is a container
_MOST_PATH = 500  # bytes that the log shows
_AFFINITY = (b"modal-routing-affinity-key", b"modal-session-id")  # requests with the same key go to the same container
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
# Whether it comes before the switch of protocols is read differently, and so is what follows.
WEBSOCKET_WITH_BODY = "A request for a websocket has no body."
_LOST = "The server in the container closed the connection before it answered; `modal app logs` shows why."
_log = structlog.get_logger(__name__)
_DEAF = "The server in the container does not listen on its port any more."


class _Nobody:
    """The event that uvicorn sets for a waiting application, of which there is none here."""

    def set(self) -> None: ...


_NOBODY = _Nobody()


class Passage:
    """front: the connection of the client, which has just parsed the head of the request."""

    def __init__(self, front: Front, gate: Gate, place: Place, target: ServerSpec) -> None:
        self.keep_alive = front.wants_keep_alive()
        self.upgrade = front.wants_websocket()
        self.message_event = _NOBODY
        self.disconnected = False
        self.response_complete = False
        self._front = front
        self._gate = gate
        self._place = place
        self._target = target
        self._method: bytes = front.parser.get_method()
        self._path = path_of(front.url)
        self._headers = front.headers
        self._http_1_1 = front.parser.get_http_version() == "1.1"
        self._expects_continue = front.expect_100_continue
        self._named = dict(front.headers)
        self._peer = asking_for(front.client[0] if front.client else "", self._named.get(b"x-forwarded-for", b""))
        self._chunked = b"transfer-encoding" in self._named
        self._request_id = request_id(self._named.get(REQUEST_ID, b""))
        self._request_complete = False
        self._held: list[bytes] = []  # of the body, until there is a container
        self._unsent: list[bytes] = []  # what goes to the container at the end of this turn
        self._held_bytes = 0
        self._slot: Slot | None = None
        self._upstream: Upstream | None = None
        self._arranging: asyncio.Task[None] | None = None
        self._repeatable = self._method in _IDEMPOTENT and not self._chunked and not self.upgrade
        self._out: list[bytes] = []
        self._framed = False  # the answer goes to the client in chunks
        self._by_end = False  # the answer ends with the connection
        self._status = 0
        self._sent = 0
        self._begun = time.perf_counter()
        self._was_let_in = False  # and leaves a line in the history
        self._task_id = ""  # of the container that got it last
        self._waited: float | None = None  # seconds, until it did
        self._heard = 0.0  # when the last of the body came, or could come again
        self._silence: asyncio.TimerHandle | None = None

    @property
    def has_answered(self) -> bool:
        """Whether the answer has begun."""
        return bool(self._status)

    # The client's side

    def begin(self) -> None:
        self._gate.log.begin()
        if self._method == b"CONNECT":
            self.keep_alive = False
            self._refuse(405, "CONNECT is for proxies; this is a server.")
            return
        if self.upgrade and self._front.announces_body():
            self._refuse(400, WEBSOCKET_WITH_BODY)
            return
        try:
            self._find_place()
        except errors.StokerError as error:
            self._fail(error)

    def on_body(self, data: bytes) -> None:
        self._heard = self._front.loop.time()
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._to_server(data)

    def on_request_complete(self) -> None:
        self._request_complete = True
        if self._chunked:
            self._to_server(b"0\r\n\r\n")

    def on_input_end(self) -> None:
        """The client has sent no more than what has come."""
        unsent, self._unsent = self._unsent, []
        if unsent and self._upstream is not None:
            self._upstream.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
        if self._silence is None and self._upstream is not None and not (self._request_complete or self.upgrade):
            self._heard = self._front.loop.time()
            self._listen(self._gate.body_silence)

    def on_client_bytes(self, data: bytes) -> None:
        """What the client sends after it asked for a websocket."""
        if self._upstream is not None and self._status == 101:
            self._upstream.write(data)
        elif self._held_bytes + len(data) > _HELD:
            self._front.transport.close()
        else:
            self._hold(data)

    def on_client_writable(self, writable: bool) -> None:
        if self._upstream is not None:
            self._upstream.pause(not writable)

    def on_client_lost(self) -> None:
        self.disconnected = True
        if not self.response_complete:
            self._leave()

    # The server's side (`upstream.Answer`)

    def on_head(self, status: int, phrase: bytes, headers: HeaderList) -> bool:
        self._status = status
        if status == 101:
            kept = [*self._relocated(headers), (REQUEST_ID, self._request_id)]
            self._out.append(written(b"HTTP/1.1 101 Switching Protocols", kept))
            return True
        kept = [header for header in answered(self._relocated(headers)) if header[0] != REQUEST_ID]
        kept.append((REQUEST_ID, self._request_id))
        bodiless = self._method == b"HEAD" or status in (204, 304)
        if not bodiless and not any(name == b"content-length" for name, _ in kept):
            self._framed, self._by_end = self._http_1_1, not self._http_1_1
            if self._framed:
                kept.append((b"transfer-encoding", b"chunked"))
        if self._by_end or self.upgrade:
            self.keep_alive = False
        if not self.keep_alive:
            kept.append((b"connection", b"close"))
        self._out.append(written(b"HTTP/1.1 %d %b" % (status, phrase), kept))
        return bodiless

    def on_chunk(self, data: bytes) -> None:
        self._sent += len(data)
        if self._framed:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def on_flush(self) -> None:
        out, self._out = self._out, []
        if out:
            self._front.transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._status == 101 and self._held:
            self._send_held()

    def on_end(self) -> None:
        if self._status == 101:
            self._leave()
            self._front.transport.close()
            return
        if self._framed:
            self._out.append(b"0\r\n\r\n")
        self.on_flush()
        self._finish()

    def on_lost(self) -> None:
        upstream, self._upstream = self._upstream, None
        slot, self._slot = self._slot, None
        if not self._status and upstream is not None and upstream.reused and self._repeatable and slot is not None:
            # It had been idle and was closed at the moment it was used again.
            self._repeatable = False
            self._arrange_soon(slot)
            return
        self._slot = slot
        if self._status:
            self._leave()  # an incomplete answer, of which a closed connection tells the client
            self._front.transport.abort() if self._by_end else self._front.transport.close()
        else:
            self._refuse(502, _LOST)

    def on_tunnel(self, data: bytes) -> None:
        self._sent += len(data)
        self._front.transport.write(data)

    def on_writable(self, writable: bool) -> None:
        self._heard = self._front.loop.time()
        self._front.flow.resume_reading() if writable else self._front.flow.pause_reading()

    # A client that stays and sends nothing

    def _listen(self, seconds: float) -> None:
        self._silence = self._front.loop.call_later(seconds, self._look_for_silence)

    def _look_for_silence(self) -> None:
        self._silence = None
        if self.response_complete or self._request_complete or self._upstream is None:
            return
        limit, now = self._gate.body_silence, self._front.loop.time()
        if self._front.flow.read_paused:
            self._heard = now  # we do not read: the server takes no more for now
        if now - self._heard < limit:
            self._listen(self._heard + limit - now)
        elif self._status:
            self._leave()  # as with an answer that breaks off, a closed connection tells the client
            self._front.transport.close()
        else:
            self.keep_alive = False
            self._refuse(408, f"Nothing was received for {limit:g} seconds.")

    # Where it goes

    def _find_place(self) -> None:
        """Raises StokerError when the request cannot be passed on."""
        if self._is_admitted():
            self._was_let_in = True
            self._gate.check_open()
            affinity = next(filter(None, map(self._named.get, _AFFINITY)), b"")
            self._go(self._gate.servers.take(self._place.endpoint.function_id, self._target, affinity))

    def _is_admitted(self) -> bool:
        """Answers with a refusal when not."""
        if self._gate.admission.admits(self._place.endpoint, self._named, self._peer):
            return True
        self._refuse(401, NO_TOKEN, [(b"www-authenticate", b"Modal-Key")])
        return False

    def _go(self, slot: Slot | None) -> None:
        upstream = self._gate.upstreams.idle((slot.task_id, slot.port)) if slot is not None else None
        if slot is not None and upstream is not None:
            self._pass_on(slot, upstream)  # written together with what of the body has come: `on_input_end`
        else:
            self._arrange_soon(slot)

    async def _wait(self) -> Slot:
        return await self._gate.servers.wait(self._place.endpoint.function_id, self._target)

    def _give_back(self, slot: Slot) -> None:
        self._gate.servers.give_back(slot)

    # How it is done

    def _arrange_soon(self, slot: Slot | None) -> None:
        self._slot = slot  # until the task runs: one that is cancelled before never begins
        self._arranging = self._front.loop.create_task(self._arrange())

    async def _arrange(self) -> None:
        """Finds a container with room that takes a connection."""
        slot, self._slot = self._slot, None
        try:
            for _ in range(_ATTEMPTS):
                if slot is None:
                    slot = await self._wait()
                try:
                    upstream = await self._gate.upstreams.connect(slot.ports, (slot.task_id, slot.port))
                except OSError as error:
                    # Nothing was sent yet; the container may be about to end.
                    if isinstance(error, ConnectionRefusedError):
                        self._gate.servers.not_listening(slot)
                    self._give_back(slot)
                    slot = None
                    continue
                taken, slot = slot, None
                self._pass_on(taken, upstream)
                self.on_input_end()
                return
            self._refuse(502, _DEAF)
        except errors.StokerError as error:
            self._fail(error)
        except Exception:
            _log.exception("web request failed", label=self._place.endpoint.label, request_id=self._request_id.decode())
            self._refuse(502, "The request could not be passed on.")
        finally:
            self._arranging = None
            if slot is not None:
                self._give_back(slot)

    def _pass_on(self, slot: Slot, upstream: Upstream) -> None:
        self._slot, self._upstream = slot, upstream
        self._task_id, self._waited = slot.task_id, time.perf_counter() - self._begun
        upstream.carry(self)
        if self._front.flow.write_paused:
            upstream.pause(True)
        if self._expects_continue:
            self._expects_continue = False
            self._front.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._unsent = [self._request_head()]
        # What comes for a websocket waits until the server has switched to it: to others it would be a request.
        if not self.upgrade:
            self._unsent += self._held
            if not (self._repeatable and self._request_complete):
                self._forget_held()
        self._front.flow.resume_reading()

    def _to_server(self, data: bytes) -> None:
        if self._upstream is None:
            self._hold(data)
        else:
            self._repeatable = False
            self._unsent.append(data)

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _HELD:
            self._front.flow.pause_reading()

    def _send_held(self) -> None:
        if self._upstream is not None:
            self._upstream.write(b"".join(self._held))
        self._forget_held()

    def _forget_held(self) -> None:
        self._held = []
        self._held_bytes = 0

    def _request_head(self) -> bytes:
        front, prefix = self._front, self._place.prefix.encode()
        headers = forwarded(self._headers)
        headers = [header for header in headers if header[0] != REQUEST_ID]
        headers = with_origin(headers, front.client[0] if front.client else "", front.scheme or "http")
        headers.append((REQUEST_ID, self._request_id))
        if prefix:
            headers.append((b"x-forwarded-prefix", prefix))
        if self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        if self.upgrade:
            headers += ((b"connection", b"Upgrade"), (b"upgrade", b"websocket"))
        return written(b"%b %b HTTP/1.1" % (self._method, self._server_target(prefix)), headers)

    def _relocated(self, headers: HeaderList) -> HeaderList:
        return relocated(headers, self._place.prefix.encode(), self._path, self._named.get(b"host", b""))

    def _server_target(self, prefix: bytes) -> bytes:
        """The target of the request as the server sees it: a path, without the prefix."""
        rest = self._path[len(prefix) :]
        return rest if rest.startswith((b"/", b"*")) else b"/" + rest

    def _fail(self, error: errors.StokerError) -> None:
        status, headers = refusal(error)
        self._refuse(status, str(error), headers)

    def _refuse(self, status: int, sentence: str, headers: HeaderList | None = None) -> None:
        self._answer(status, sentence + "\n", [(b"content-type", b"text/plain; charset=utf-8"), *(headers or ())])

    def _answer(self, status: int, text: str, headers: HeaderList) -> None:
        """An answer of ours."""
        if self.response_complete or self.disconnected:
            return
        self._status = status
        if self.upgrade:
            self.keep_alive = False
        every = [*headers, (REQUEST_ID, self._request_id)]
        answer = own_answer(
            status, HTTPStatus(status).phrase, text, every, close=not self.keep_alive, bodiless=self._method == b"HEAD"
        )
        self._sent = len(answer)
        self._front.transport.write(answer)
        self._finish()

    def _finish(self) -> None:
        """The answer is complete."""
        self._release(self._request_complete)
        self.response_complete = True
        self._log()
        if not self.keep_alive:
            self._front.transport.close()
        self._front.on_response_complete()

    def _leave(self) -> None:
        """The exchange ends before its time, or a websocket at its end."""
        if self._arranging is not None:
            self._arranging.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.finish_writing() if self._status == 101 else upstream.close()
        self._release(False)
        self.response_complete = True
        self._log(aborted=self._status != 101)

    def _release(self, usable: bool) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.release(usable and not self.upgrade)
        slot, self._slot = self._slot, None
        if slot is not None:
            self._give_back(slot)
        self._forget_held()

    def _log(self, **more: Any) -> None:
        path = self._path.partition(b"?")[0][:_MOST_PATH].decode("latin-1")
        request_id, took = self._request_id.decode(), time.perf_counter() - self._begun
        if self._was_let_in:
            place, status = self._place, self._status or CLIENT_LEFT
            route = path[len(place.prefix) :] or "/"
            self._gate.remember(
                place.endpoint.function_id, self._task_id, request_id, route, status, self._waited, took
            )
        self._gate.log.add(
            {
                "label": self._place.endpoint.label,
                "method": "WEBSOCKET" if self.upgrade else self._method.decode(),
                "path": path,
                "status": self._status or None,
                "ms": round(took * 1000, 1),
                "bytes": self._sent,
                "client": self._front.client[0] if self._front.client else None,
                "request_id": request_id,
                **more,
            }
        )
