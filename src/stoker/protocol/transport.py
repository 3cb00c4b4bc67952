"""The gRPC server: clients over TCP (h2c) with a token, containers over one unix socket each.

A container sends no identity, so the socket it calls through *is* its identity: every socket has a server object of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog

from stoker.errors import FailedPrecondition, PermissionDenied, StokerError
from stoker.protocol.replay import ReplayCache
from stoker.protocol.rpc import SERVICE, Caller, Method
from stoker.protocol.status import WireStatus, wire_status

_MAX_MESSAGE = 128 << 20  # generator chunks reach 16 MiB, batches of outputs more
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.keepalive_permit_without_calls", 1),  # clients ping every 30 s, with or without calls
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # two servers on one port must fail loudly
]
_log = structlog.get_logger(__name__)


class Authenticator(Protocol):
    """Checks the token of a client; raises Unauthenticated with the sentence to show."""

    def authenticate(self, token_id: str, token_secret: str) -> None: ...


class Transport:
    """Serves `methods`; every RPC of the service that is not among them answers UNIMPLEMENTED with one clear sentence."""

    def __init__(self, methods: Mapping[str, Method], authenticator: Authenticator) -> None:
        self._methods = methods
        self._authenticator = authenticator
        self._replays = ReplayCache()
        self._client_server: grpc.aio.Server | None = None
        self._sockets: dict[str, grpc.aio.Server] = {}

    async def listen(self, host: str, port: int) -> int:
        """Serves clients at host:port (0 picks a free port); returns the port. Raises FailedPrecondition when it is taken."""
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers(self._client_caller),))
        try:
            bound = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise FailedPrecondition(
                f"Cannot listen on {host}:{port}: the port is taken or the address is not of this machine. Choose another with --port (0 picks a free one)."
            )
        await server.start()
        self._client_server = server
        return bound

    async def listen_container(self, task_id: str, path: Path) -> None:
        """Serves the container `task_id` at a unix socket."""

        def caller(context: Any) -> Caller:
            return _caller("container", context, task_id=task_id)

        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers(caller),))
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        self._sockets[task_id] = server

    async def close_container(self, task_id: str) -> None:
        server = self._sockets.pop(task_id, None)
        if server is not None:
            await server.stop(0)

    async def close(self, grace: float = 0.0) -> None:
        for task_id in list(self._sockets):
            await self.close_container(task_id)
        if self._client_server is not None:
            await self._client_server.stop(grace)

    def _client_caller(self, context: Any) -> Caller:
        return _caller("client", context)

    def _handlers(self, identify: Callable[[Any], Caller]) -> grpc.GenericRpcHandler[Any, Any]:
        table = {}
        for name, descriptor in SERVICE.methods_by_name.items():
            method = self._methods.get(name)
            if method is None:
                table[name] = grpc.unary_unary_rpc_method_handler(_unimplemented(name))
            elif descriptor.server_streaming:
                table[name] = grpc.unary_stream_rpc_method_handler(
                    self._stream(method, identify),
                    method.request_type.FromString,
                    method.response_type.SerializeToString,
                )
            else:
                table[name] = grpc.unary_unary_rpc_method_handler(
                    self._unary(method, identify),
                    method.request_type.FromString,
                    method.response_type.SerializeToString,
                )
        return grpc.method_handlers_generic_handler(SERVICE.full_name, table)

    def _unary(self, method: Method, identify: Callable[[Any], Caller]) -> Callable[[Any, Any], Any]:
        async def handle(request: Any, context: Any) -> Any:
            try:
                caller = identify(context)
                self._admit(method, caller)
                if method.once and caller.idempotency_key:
                    key = (method.name, caller.task_id or caller.token_id, caller.idempotency_key)
                    return await self._replays.once(key, lambda: method.handler(request, caller))
                return await method.handler(request, caller)
            except StokerError as error:
                await _abort(context, wire_status(error))
            except asyncio.CancelledError:
                raise
            except Exception as error:
                await _abort(context, _unexpected(method.name, error))

        return handle

    def _stream(self, method: Method, identify: Callable[[Any], Caller]) -> Callable[[Any, Any], Any]:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                caller = identify(context)
                self._admit(method, caller)
                await context.send_initial_metadata(())
                async for response in method.handler(request, caller):
                    yield response
            except StokerError as error:
                await _abort(context, wire_status(error))
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except Exception as error:
                await _abort(context, _unexpected(method.name, error))

        return handle

    def _admit(self, method: Method, caller: Caller) -> None:
        if caller.kind == "container":
            if not method.containers:
                raise PermissionDenied(f"{method.name} may not be called from inside a container.")
        elif not method.open:
            self._authenticator.authenticate(caller.token_id, caller.metadata.get("x-modal-token-secret", ""))


def _caller(kind: Any, context: Any, task_id: str = "") -> Caller:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Caller(
        kind=kind,
        client_version=metadata.get("x-modal-client-version", ""),
        token_id=metadata.get("x-modal-token-id", ""),
        task_id=task_id,
        idempotency_key=metadata.get("x-idempotency-key", ""),
        metadata=metadata,
    )


def _unimplemented(name: str) -> Callable[[Any, Any], Any]:
    async def handle(_request: Any, context: Any) -> None:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"This server does not offer {name} (docs/compatibility.md lists what it offers).",
        )

    return handle


async def _abort(context: Any, status: WireStatus) -> None:
    trailers = (("grpc-status-details-bin", status.details),) if status.details else ()
    await context.abort(status.code, status.message, trailers)


def _unexpected(name: str, error: Exception) -> WireStatus:
    """A defect of ours. FAILED_PRECONDITION, for a repeat of the same request would fail the same way."""
    _log.exception("rpc failed", rpc=name)
    return WireStatus(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"{name} failed inside the server ({type(error).__name__}: {error}). This is a defect of Stoker; the server's log has the details.",
    )
