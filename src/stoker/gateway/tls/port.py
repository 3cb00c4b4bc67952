"""One port for everything over TLS: HTTP for browsers and programs, gRPC for the client of Modal, told apart by what they offer (ALPN)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import structlog
from cryptography import x509

from stoker import descriptors
from stoker.connections import Connections
from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.gateway.web.serve import listening_socket

_HANDSHAKE = 10.0  # seconds
_MOST_HANDSHAKES = 1_024  # at a time
_MOST_ACCEPTED = 64  # before anything else has its turn
_RETRY = 1.0  # seconds until the next try when a connection could not be accepted
_LOOK_AGAIN = 600.0  # seconds between looks at whether the files of a certificate are new
_log = structlog.get_logger(__name__)

MakeProtocol = Callable[[], asyncio.Protocol]


class Certificate:
    """A certificate with its key, from two PEM files that another program may renew."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises InvalidArgument when they are not there, or do not belong together."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Browsers offer both and get HTTP/1.1; the client of Modal offers nothing but h2.
        self.context.set_alpn_protocols(["http/1.1", "h2"])
        self._cert = cert
        self._key = key
        self._seen: tuple[float, float] | None = None
        self._names: list[str] = []
        self._watching: asyncio.TimerHandle | None = None
        self.load()

    def load(self) -> None:
        """Reads the files; connections made from now on use what they hold. Raises InvalidArgument."""
        try:
            seen = (self._cert.stat().st_mtime, self._key.stat().st_mtime)
            # A context that fails to load a pair has half of it, and no connection can be made: so another one tries.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key)
            names = _names(self._cert)
            self.context.load_cert_chain(self._cert, self._key)
        except FileNotFoundError as error:
            raise InvalidArgument(
                f"The settings tls_cert and tls_key name two PEM files; {error.filename} is not there."
            ) from None
        except (OSError, ssl.SSLError, ValueError) as error:
            raise InvalidArgument(
                f"{self._cert} and {self._key} are no certificate with its key in PEM form ({error}). "
                "The first holds the certificate and those between it and its root, the second the key without a password."
            ) from None
        self._seen, self._names = seen, names

    def covers(self, host: str) -> bool:
        """Whether it is for this host name."""
        parent = "*." + host.partition(".")[2]
        return any(name in (host, parent) for name in self._names)

    def watch(self) -> None:
        """Looks from time to time whether the files were renewed."""
        self._watching = asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._look)

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def _look(self) -> None:
        try:
            if (self._cert.stat().st_mtime, self._key.stat().st_mtime) != self._seen:
                self.load()
                _log.info("certificate renewed", file=str(self._cert))
        except (OSError, InvalidArgument) as error:
            _log.warning("certificate not renewed", file=str(self._cert), reason=str(error))
        self.watch()


def _names(cert: Path) -> list[str]:
    """The host names of a certificate."""
    found = x509.load_pem_x509_certificate(cert.read_bytes())
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]


class Closed(asyncio.Protocol):
    """Ends a connection at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.close()


class TlsPort:
    """http, h2: make the protocol of a connection that speaks HTTP/1.1, or HTTP/2 for gRPC.

    It accepts connections by itself: an event loop tells nobody of those that never get through the handshake."""

    def __init__(
        self, context: ssl.SSLContext, *, http: MakeProtocol, h2: MakeProtocol = Closed, per_address: int = 0
    ) -> None:
        """per_address: handshakes at a time from one address of another machine, 0 for no limit."""
        self._context = context
        self._http = http
        self._h2 = h2
        self._handshakes = Connections("tls", min(_MOST_HANDSHAKES, descriptors.limit() // 8), per_address=per_address)
        self._listener: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None

    def listen(self, host: str, port: int) -> None:
        """Raises FailedPrecondition when the port is taken, or only for root."""
        try:
            self._listener = listening_socket(host, port)
        except OSError as error:
            raise FailedPrecondition(
                f"Cannot listen on {host}:{port} for TLS: {error.strerror}. Choose another port with the setting tls_port."
            ) from None
        self._watch()

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for handshake in self._handshakes:
            handshake.turn_away("the server stops")

    def _watch(self) -> None:
        self._retry = None
        assert self._listener is not None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_MOST_ACCEPTED):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no file descriptor is left, most likely
                self._handshakes.warn("connection not accepted", reason=error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                self._retry = loop.call_later(_RETRY, self._watch)
                return
            accepted.setblocking(False)
            handshake = _Handshake(accepted, self._handshakes)
            if self._handshakes.add(handshake, address[0]):
                handshake.begin(lambda: _Undecided(self._http, self._h2), self._context)


class _Handshake:
    """A connection of which nobody knows yet what it will be."""

    def __init__(self, accepted: socket.socket, others: Connections) -> None:
        self.idle_since: float | None = asyncio.get_running_loop().time()
        self._accepted = accepted
        self._others = others
        self._task: asyncio.Task[None] | None = None

    def look(self, now: float) -> None: ...

    def turn_away(self, reason: str) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self._accepted.close()

    def begin(self, make_protocol: MakeProtocol, context: ssl.SSLContext) -> None:
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(make_protocol, context))
        self._task.add_done_callback(self._over)

    async def _shake_hands(self, make_protocol: MakeProtocol, context: ssl.SSLContext) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            make_protocol, self._accepted, ssl=context, ssl_handshake_timeout=_HANDSHAKE
        )

    def _over(self, task: asyncio.Task[None]) -> None:
        self._others.remove(self)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            self._accepted.close()
        if error is not None and not isinstance(error, (OSError, ssl.SSLError, TimeoutError)):
            _log.error("handshake failed", exc_info=error)


class _Undecided(asyncio.Protocol):
    """Becomes the right protocol once the handshake has told which."""

    def __init__(self, http: MakeProtocol, h2: MakeProtocol) -> None:
        self._http = http
        self._h2 = h2

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        encrypted: ssl.SSLObject = transport.get_extra_info("ssl_object")
        protocol = (self._h2 if encrypted.selected_alpn_protocol() == "h2" else self._http)()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
