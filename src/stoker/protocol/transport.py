"""The gRPC server: clients over TCP (h2c) with a token, containers over one unix socket each.

A container sends no identity, so the socket it calls through *is* its identity.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog

from stoker.errors import (
    FailedPrecondition,
    InvalidArgument,
    StokerError,
    Unimplemented,
)
from stoker.keepalive import notice_lost_peers
from stoker.protocol.http2.connection import Connection, Stream
from stoker.protocol.http2.headers import Headers
from stoker.protocol.replay import ReplayCache
from stoker.protocol.rights import Scope
from stoker.protocol.rpc import SERVICE, Caller, Method
from stoker.protocol.status import Status, WireStatus, wire_status
from stoker.services.attempts import Peer
from stoker.services.identity import ContainerIdentity
from stoker.services.ownership import Ownership
from stoker.services.waiting import settled
from stoker.unoffered import refusal

_MAX_MESSAGE = 128 << 20  # generator chunks reach 16 MiB, batches of outputs more
_MAX_OPEN_MESSAGE = 64 << 10  # of who has shown no token: whoever reaches the port may send them
_PREFIX = struct.Struct(">BI")
_PATH = f"/{SERVICE.full_name}/"
_log = structlog.get_logger(__name__)


class Authenticator(Protocol):
    """Checks the token of a client."""

    def authenticate(self, token_id: str, token_secret: str, peer: Peer) -> object:
        """Raises Unauthenticated with the sentence to show."""
        ...


class Transport:
    """Serves `methods`; every other RPC of the service answers UNIMPLEMENTED with one clear sentence."""

    def __init__(
        self, methods: Mapping[str, Method], authenticator: Authenticator, ownership: Ownership | None = None
    ) -> None:
        """ownership: what the scopes of containers' requests look up; without it whatever has a scope is refused."""
        self._methods = methods
        self._authenticator = authenticator
        self._ownership = ownership
        self._replays = ReplayCache()
        self._clients: _Listener | None = None
        self._containers: dict[str, _Listener] = {}

    async def listen(self, host: str, port: int) -> int:
        """Serves clients at host:port (0 picks a free port); returns the port. Raises FailedPrecondition when it is taken."""
        listener = _Listener(self._rpcs(None))
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

    async def listen_container(self, container: ContainerIdentity, path: Path) -> None:
        """Serves a container at a unix socket."""
        listener = _Listener(self._rpcs(container))
        listener.server = await asyncio.get_running_loop().create_unix_server(listener.connection, str(path))
        self._containers[container.task_id] = listener

    async def quiet(self, task_id: str, timeout: float) -> bool:
        """Waits until the container `task_id` has closed all its connections, at most `timeout` seconds; whether it has."""
        listener = self._containers.get(task_id)
        return listener is None or await listener.quiet(timeout)

    def has_called(self, task_id: str) -> bool:
        """Whether the container `task_id` has ever connected."""
        listener = self._containers.get(task_id)
        return listener is not None and listener.called

    async def close_container(self, task_id: str) -> None:
        listener = self._containers.pop(task_id, None)
        if listener is not None:
            listener.close()

    async def close(self) -> None:
        for task_id in list(self._containers):
            await self.close_container(task_id)
        if self._clients is not None:
            self._clients.close()

    def _rpcs(self, container: ContainerIdentity | None) -> _Rpcs:
        return _Rpcs(self._methods, self._replays, self._authenticator, self._ownership, container)


class _Listener:
    """A listening socket and its connections."""

    def __init__(self, rpcs: _Rpcs) -> None:
        self.server: asyncio.AbstractServer | None = None
        self.called = False
        self._rpcs = rpcs
        self._connections: set[Connection] = set()
        self._empty: asyncio.Future[None] | None = None

    def connection(self) -> Connection:
        self.called = True
        connection = Connection(self._rpcs, self._gone)
        self._connections.add(connection)
        return connection

    async def quiet(self, timeout: float) -> bool:
        if self._connections:
            self._empty = asyncio.get_running_loop().create_future()
            await settled(self._empty, timeout)
        return not self._connections

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        for connection in list(self._connections):
            connection.shut_down()
            connection.abort()


class _Request:
    """A call on its way in, then under way."""

    __slots__ = ("body", "caller", "method", "scope", "task")

    def __init__(self, method: Method, caller: Caller, scope: Scope | None) -> None:
        """scope: what of the RPC the caller may ask for, None for everything."""
        self.method = method
        self.caller = caller
        self.scope = scope
        self.body = bytearray()
        self.task: asyncio.Task[None] | None = None


class _Rpcs:
    """gRPC over the streams of one kind of caller: checks who calls, reads the request, sends the answer."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        replays: ReplayCache,
        authenticator: Authenticator,
        ownership: Ownership | None,
        container: ContainerIdentity | None,
    ) -> None:
        self._methods = methods
        self._replays = replays
        self._authenticator = authenticator
        self._ownership = ownership
        self._container = container

    # The streams

    def begin(self, stream: Stream, headers: Headers) -> None:
        try:
            stream.state = self._admit(stream, headers)
        except StokerError as error:
            _refuse(stream, wire_status(error))

    def receive(self, stream: Stream, data: bytes, end: bool) -> None:
        request = stream.state
        if not isinstance(request, _Request) or stream.closed:
            return
        request.body += data
        most = _MAX_OPEN_MESSAGE if request.method.rights.open else _MAX_MESSAGE
        if len(request.body) > most + _PREFIX.size:
            request.body.clear()
            error = InvalidArgument(f"The request is larger than {most >> 10} KiB.")
            _refuse(stream, wire_status(error))
        elif end:
            work = self._stream if request.method.streams else self._unary
            request.task = asyncio.get_running_loop().create_task(self._guard(stream, request, work))

    def abandon(self, stream: Stream) -> None:
        request = stream.state
        if not isinstance(request, _Request) or request.task is None:
            return
        if request.method.waits or request.method.streams:
            request.task.cancel()

    # The calls

    def _admit(self, stream: Stream, headers: Headers) -> _Request:
        path = headers.get(":path", "")
        name = path.removeprefix(_PATH)
        method = self._methods.get(name)
        if not path.startswith(_PATH) or (method is None and name not in SERVICE.methods_by_name):
            raise Unimplemented(f"{path} is no RPC of the Modal protocol this server was built for.")
        if method is None:
            raise Unimplemented(refusal(name))
        container = self._container
        if container is not None and (container.restricted or not headers.get("x-modal-token-id")):
            return _Request(method, self._caller(headers, container), method.rights.admit_container(name, container))
        # Code in a container that shows a token is a client, like anybody with that token.
        if container is not None or not method.rights.open:
            self._authenticate(stream, headers)
        method.rights.admit_client(name)
        return _Request(method, self._caller(headers, None), None)

    def _authenticate(self, stream: Stream, headers: Headers) -> None:
        """Raises Unauthenticated."""
        token = headers.get("x-modal-token-id", ""), headers.get("x-modal-token-secret", "")
        connection = stream.connection
        address = f"container {self._container.task_id}" if self._container is not None else connection.peer
        self._authenticator.authenticate(*token, Peer(address, "grpc", proven=connection.proven == token))
        connection.proven = token

    def _caller(self, headers: Headers, container: ContainerIdentity | None) -> Caller:
        return Caller(
            container=container,
            inside=self._container is not None,
            client_version=headers.get("x-modal-client-version", ""),
            token_id=headers.get("x-modal-token-id", "") if container is None else "",
            idempotency_key=headers.get("x-idempotency-key", ""),
            repeats=headers.get("x-retry-attempt", "0") != "0",
            host=headers.get(":authority", "").rpartition(":")[0],
            metadata=headers,
        )

    async def _guard(self, stream: Stream, request: _Request, work: Callable[[Stream, _Request, Any], Any]) -> None:
        """Runs a call; whatever goes wrong becomes a status."""
        try:
            message = _message(request)
            self._check(request, message)
            await work(stream, request, message)
        except StokerError as error:
            _refuse(stream, wire_status(error))
        except asyncio.CancelledError:
            # The caller is gone, or else what the call waited for was called off, of which the caller must hear.
            _refuse(stream, WireStatus(Status.UNAVAILABLE, f"{request.method.name} was broken off inside the server."))
            raise
        except Exception as error:
            _log.exception("rpc failed", rpc=request.method.name)
            _refuse(stream, _defect(request.method.name, error))

    def _check(self, request: _Request, message: Any) -> None:
        """Raises PermissionDenied when a container asks for what is not its own, NotFound when that does not exist."""
        if request.scope is not None and request.caller.container is not None:
            assert self._ownership is not None
            request.scope.check(message, request.caller.container, self._ownership)

    async def _unary(self, stream: Stream, request: _Request, message: Any) -> None:
        method, caller = request.method, request.caller
        if method.once and caller.idempotency_key:
            key = (method.name, caller.name, caller.idempotency_key)
            response = await self._replays.once(key, lambda: method.handler(message, caller))
        else:
            response = await method.handler(message, caller)
        stream.answer(_HEAD, _framed(response), _OK)

    async def _stream(self, stream: Stream, request: _Request, message: Any) -> None:
        stream.send_head(_HEAD)
        async with contextlib.aclosing(request.method.handler(message, request.caller)) as responses:
            async for response in responses:
                await stream.send_data(_framed(response))
        stream.send_end(_OK)


def _message(request: _Request) -> Any:
    """The request as a protobuf message. Raises InvalidArgument."""
    name, body = request.method.name, request.body
    if len(body) < _PREFIX.size:
        raise InvalidArgument(f"{name} came without a message.")
    compressed, size = _PREFIX.unpack_from(body)
    if compressed:
        raise InvalidArgument(f"{name} came compressed, which this server does not read.")
    if size != len(body) - _PREFIX.size:
        raise InvalidArgument(f"{name} announced {size} bytes and brought {len(body) - _PREFIX.size}.")
    try:
        return request.method.request_type.FromString(bytes(memoryview(body)[_PREFIX.size :]))
    except Exception as error:
        raise InvalidArgument(f"{name} brought bytes that are no {request.method.request_type.__name__}.") from error


def _framed(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return _PREFIX.pack(0, len(data)) + data


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
