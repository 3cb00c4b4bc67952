"""One port for everything over TLS: HTTP for browsers and programs, gRPC for the client of Modal, told apart by what they offer (ALPN)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import structlog
from cryptography import x509

from stoker.errors import FailedPrecondition, InvalidArgument
from stoker.keepalive import notice_lost_peers

_HANDSHAKE = 10.0  # seconds
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
    """http, h2: make the protocol of a connection that speaks HTTP/1.1, or HTTP/2 for gRPC."""

    def __init__(self, context: ssl.SSLContext, *, http: MakeProtocol, h2: MakeProtocol = Closed) -> None:
        self._context = context
        self._http = http
        self._h2 = h2
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Raises FailedPrecondition when the port is taken, or only for root."""
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _Undecided(self._http, self._h2),
                host,
                port,
                ssl=self._context,
                ssl_handshake_timeout=_HANDSHAKE,
                backlog=1024,
            )
            for listening in self._server.sockets:
                notice_lost_peers(listening)
        except OSError as error:
            raise FailedPrecondition(
                f"Cannot listen on {host}:{port} for TLS: {error.strerror}. Choose another port with the setting tls_port."
            ) from None

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


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
