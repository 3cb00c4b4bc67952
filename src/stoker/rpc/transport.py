"""The gRPC server: clients over TCP (h2c) with a token, containers over one unix socket each.

A container sends no identity, so the socket it calls through *is* its identity.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import structlog

from stoker.aio.keepalive import notice_lost_peers
from stoker.errors import FailedPrecondition, StokerError, Unimplemented
from stoker.quoting import shown
from stoker.rpc.http2 import frames
from stoker.rpc.http2.headers import Headers
from stoker.rpc.http2.limits import CLIENT, CONTAINER, STRANGER
from stoker.rpc.http2.stream import Stream
from stoker.rpc.intake import PREFIX, Request
from stoker.rpc.listeners import Listener, client_connections, container_connections, container_total
from stoker.rpc.methods import SERVICE, Caller, Method
from stoker.rpc.peers import Memories, Peer
from stoker.rpc.replay import ReplayCache
from stoker.rpc.rights import Scope
from stoker.rpc.status import Status, WireStatus, wire_status
from stoker.services.access import attempts
from stoker.services.access.ownership import Ownership
from stoker.services.containers.identity import ContainerIdentity
from stoker.unoffered import refusal

_PATH = f"/{SERVICE.full_name}/"
_PATIENCE_FOR_REFUSAL = 8  # frames that bring nothing
_log = structlog.get_logger(__name__)


class Authenticator(Protocol):
    """Checks the token of a client."""

    def authenticate(self, token_id: str, token_secret: str, peer: attempts.Peer) -> object:
        """Raises Unauthenticated with the sentence to show."""
        ...


class Transport:
    """Serves `methods`; every other RPC of the service answers UNIMPLEMENTED with one clear sentence."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        authenticator: Authenticator,
        ownership: Ownership | None = None,
        *,
        per_address: int = 0,
    ) -> None:
        """ownership: what the scopes of containers' requests look up; without it whatever has a scope is refused.
        per_address: connections that clients at one address of another machine may have, 0 for no limit."""
        self._methods = methods
        self._authenticator = authenticator
        self._ownership = ownership
        self._per_address = per_address
        self._replays = ReplayCache(100_000, 256 << 20)  # values popped from dicts can be large
        self._memories = Memories()
        self._clients: Listener | None = None
        self._containers: dict[str, Listener] = {}
        self._container_total = container_total()

    async def listen(self, host: str, port: int) -> int:
        """Serves clients at host:port (0 picks a free port); returns the port. Raises FailedPrecondition when it is taken."""
        rpcs = self._rpcs(None, self._replays)
        listener = Listener(rpcs, STRANGER, self._memories.stranger, client_connections(self._per_address))
        try:
            server = await asyncio.get_running_loop().create_server(listener.connection, host, port, backlog=1024)
        except OSError as error:
            raise FailedPrecondition(
                f"Cannot listen on {host}:{port} ({error.strerror or error}). Another program may use the port: choose one with "
                "--port (0 picks a free one), or stop the other with `stoker down` if it is a Stoker server."
            ) from error
        for listening in server.sockets:
            notice_lost_peers(listening)
        listener.server = server
        self._clients = listener
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def connection(self) -> asyncio.Protocol:
        """The protocol of a client's connection that another listener accepted. Only after `listen`."""
        assert self._clients is not None
        return self._clients.connection()

    def expect(self, container: ContainerIdentity) -> None:
        """From now on a container may call; its connections are served by `container_connection`."""
        peer = self._memories.container()
        connections = container_connections(container.task_id, self._container_total)
        rpcs = self._rpcs(container, ReplayCache(10_000, 16 << 20))
        self._containers[container.task_id] = Listener(rpcs, CONTAINER, lambda: peer, connections)

    def forget(self, task_id: str) -> None:
        """A container has ended, or was not started: its connections end. No error when it was not expected."""
        listener = self._containers.pop(task_id, None)
        if listener is not None:
            listener.close()

    def container_connection(self, task_id: str) -> asyncio.Protocol:
        """The protocol of a container's connection, which ends at once when it is not expected."""
        listener = self._containers.get(task_id)
        return listener.connection() if listener is not None else _TurnedAway()

    async def quiet(self, task_id: str, timeout: float) -> bool:
        """Waits until the container `task_id` has closed all its connections, at most `timeout` seconds; whether it has."""
        listener = self._containers.get(task_id)
        return listener is None or await listener.quiet(timeout)

    async def close(self) -> None:
        for task_id in list(self._containers):
            self.forget(task_id)
        if self._clients is not None:
            self._clients.close()

    def _rpcs(self, container: ContainerIdentity | None, replays: ReplayCache) -> _Rpcs:
        return _Rpcs(self._methods, replays, self._authenticator, self._memories, self._ownership, container)


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Rpcs:
    """gRPC over the streams of one kind of caller: checks who calls, reads the request, sends the answer."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        replays: ReplayCache,
        authenticator: Authenticator,
        memories: Memories,
        ownership: Ownership | None,
        container: ContainerIdentity | None,
    ) -> None:
        self._methods = methods
        self._replays = replays
        self._authenticator = authenticator
        self._memories = memories
        self._ownership = ownership
        self._container = container

    # The streams

    def begin(self, stream: Stream, headers: Headers) -> None:
        try:
            method, caller, scope = self._admit(stream, headers)
        except StokerError as error:
            _refuse(stream, wire_status(error))
            stream.connection.charge(_PATIENCE_FOR_REFUSAL)
            return
        peer = self._peer(stream, method)
        if peer.calls >= peer.most_calls:
            stream.connection.reset(stream, frames.REFUSED_STREAM)
            stream.connection.charge(_PATIENCE_FOR_REFUSAL)
            return
        peer.calls += 1
        stream.state = Request(stream, method, caller, scope, peer, self._start)

    def receive(self, stream: Stream, data: bytes, end: bool) -> None:
        request = stream.state
        if not isinstance(request, Request) or stream.closed:
            return
        try:
            request.add(data, end)
        except StokerError as error:
            self._end(request)
            _refuse(stream, wire_status(error))
            stream.connection.charge(_PATIENCE_FOR_REFUSAL)

    def abandon(self, stream: Stream) -> None:
        request = stream.state
        if not isinstance(request, Request):
            return
        if request.task is None:
            self._end(request)
        elif request.method.waits or request.method.streams:
            request.task.cancel()
            if not request.has_begun:
                self._end(request)

    def _start(self, request: Request) -> None:
        work = self._stream if request.method.streams else self._unary
        request.task = asyncio.get_running_loop().create_task(self._guard(request, work))

    def _end(self, request: Request) -> None:
        """The request is dealt with, whatever became of it."""
        if not request.is_over:
            request.is_over = True
            request.stream.state = None  # or only the garbage collector would find them
            request.release()
            request.peer.calls -= 1

    def _peer(self, stream: Stream, method: Method) -> Peer:
        connection = stream.connection
        if not (self._container or method.rights.open or connection.limits is CLIENT):
            connection.owner = self._memories.client()
            connection.trust(CLIENT, connection.owner.outgoing)
        assert isinstance(connection.owner, Peer)
        return connection.owner

    # The calls

    def _admit(self, stream: Stream, headers: Headers) -> tuple[Method, Caller, Scope | None]:
        """What is called, by whom, and what of it that caller may ask for, None for everything."""
        path = headers.get(":path", "")
        if headers.get(":method") != "POST":
            raise Unimplemented(f"A call is a POST request. This one was {shown(headers.get(':method', ''))}.")
        name = path.removeprefix(_PATH)
        method = self._methods.get(name)
        if not path.startswith(_PATH) or (method is None and name not in SERVICE.methods_by_name):
            raise Unimplemented(f"{shown(path)} is no RPC of the Modal protocol this server was built for.")
        if method is None:
            raise Unimplemented(refusal(name))
        container = self._container
        if container is not None and (container.restricted or not headers.get("x-modal-token-id")):
            return method, self._caller(headers, container), method.rights.admit_container(name, container)
        # Code in a container that shows a token is a client, like anybody with that token.
        if container is not None or not method.rights.open:
            self._authenticate(stream, headers)
        method.rights.admit_client(name)
        return method, self._caller(headers, None), None

    def _authenticate(self, stream: Stream, headers: Headers) -> None:
        """Raises Unauthenticated."""
        token = headers.get("x-modal-token-id", ""), headers.get("x-modal-token-secret", "")
        connection = stream.connection
        address = f"container {self._container.task_id}" if self._container is not None else connection.address
        peer = attempts.Peer(address, "grpc", proven=connection.proven == token)
        self._authenticator.authenticate(*token, peer)
        connection.proven = token

    def _caller(self, headers: Headers, container: ContainerIdentity | None) -> Caller:
        retries = (headers.get("x-retry-attempt", "0"), headers.get("x-throttle-retry-attempt", "0"))
        return Caller(
            container=container,
            inside=self._container is not None,
            client_type=headers.get("x-modal-client-type", ""),
            client_version=headers.get("x-modal-client-version", ""),
            token_id=headers.get("x-modal-token-id", "") if container is None else "",
            idempotency_key=headers.get("x-idempotency-key", ""),
            repeats=retries != ("0", "0"),
            host=headers.get(":authority", "").rpartition(":")[0] or headers.get("x-modal-host", ""),
        )

    async def _guard(self, request: Request, work: Callable[[Request, Any], Any]) -> None:
        """Runs a call; whatever goes wrong becomes a status."""
        stream, request.has_begun = request.stream, True
        try:
            if request.peer.outgoing.is_crowded and not await stream.turn():
                return  # the caller is gone, and nothing has begun
            message = request.message()
            self._check(request, message)
            await work(request, message)
        except StokerError as error:
            _refuse(stream, wire_status(error))
        except asyncio.CancelledError:
            # The caller is gone, or else what the call waited for was called off, of which the caller must hear.
            _refuse(stream, WireStatus(Status.UNAVAILABLE, f"{request.method.name} was broken off inside the server."))
            raise
        except Exception as error:
            _log.exception("rpc failed", rpc=request.method.name)
            _refuse(stream, _defect(request.method.name, error))
        finally:
            self._end(request)

    def _check(self, request: Request, message: Any) -> None:
        """Raises InvalidArgument for numbers that are not finite, PermissionDenied when a container asks for what is not its own, NotFound when
        that does not exist."""
        if request.method.numbers is not None:
            request.method.numbers(message)
        if request.scope is not None and request.caller.container is not None:
            assert self._ownership is not None
            request.scope.check(message, request.caller.container, self._ownership)

    async def _unary(self, request: Request, message: Any) -> None:
        method, caller = request.method, request.caller
        if method.once and caller.idempotency_key:
            key = (method.name, caller.name, caller.idempotency_key)
            response = await self._replays.once(key, partial(method.handler, message, caller))
        else:
            response = await method.handler(message, caller)
        data = _framed(response)
        if not request.stream.answer_now(_HEAD, data, _OK):
            del response, message
            await request.stream.answer(_HEAD, data, _OK)

    async def _stream(self, request: Request, message: Any) -> None:
        stream = request.stream
        stream.send_head(_HEAD)
        async with contextlib.aclosing(request.method.handler(message, request.caller)) as responses:
            async for response in responses:
                await stream.send_data(_framed(response))
        stream.send_end(_OK)


def _framed(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return PREFIX.pack(0, len(data)) + data


def _refuse(stream: Stream, status: WireStatus) -> None:
    """Ends a call without a result."""
    if stream.closed:
        return
    trailers = _block(status.trailers())
    stream.send_end(trailers if stream.head_sent else _HEAD + trailers)


def _defect(name: str, error: Exception) -> WireStatus:
    """A defect of ours. FAILED_PRECONDITION, for a repeat of the same request would fail the same way."""
    return WireStatus(
        Status.FAILED_PRECONDITION,
        f"{name} failed inside the server ({type(error).__name__}: {error}). This is a defect of Stoker; the server's log has the details.",
    )


def _block(fields: list[tuple[str, str]]) -> bytes:
    """A header block of literals that leave the compression state alone (RFC 7541, 6.2.2)."""
    parts = []
    for name, value in fields:
        parts += [b"\x00", _string(name.encode()), _string(value.encode())]
    return b"".join(parts)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    head, size = bytearray([127]), size - 127
    while size >= 128:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + text


_HEAD = b"\x88" + _block([("content-type", "application/grpc+proto")])  # 0x88: ":status: 200" of the static table
_OK = _block([("grpc-status", "0")])
