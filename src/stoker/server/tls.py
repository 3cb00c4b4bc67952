"""TLS for a server: which certificate, on which port, and for which names."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.gateway.tls.acme import CHALLENGE_PATH, Acme
from stoker.gateway.tls.port import Certificate, TlsPort
from stoker.gateway.web.serve import HttpServer
from stoker.rpc.transport import Transport


class Inside(NamedTuple):
    """What sandboxes reach over TLS: web endpoints, and nothing that clients reach."""

    http: HttpServer
    host: str
    port: int


class Tls:
    """Made when the settings ask for TLS. Raises StokerError when they cannot be followed."""

    def __init__(self, settings: Settings, data: DataDir) -> None:
        self._settings = settings
        self._certificate: Certificate | None = None
        self._acme: Acme | None = None
        self._ports: list[TlsPort] = []  # once they listen
        if settings.tls_cert:
            self._certificate = Certificate(Path(settings.tls_cert), Path(settings.tls_key))
        else:
            self._acme = Acme(
                directory=data.path / "acme",
                domains=settings.acme_domains,
                email=settings.acme_email,
                authority=settings.acme_directory,
                ca=settings.acme_ca,
            )

    def base_for(self, host: str) -> str:
        """The beginning of URLs for whoever reaches the server by this host name; "" when the certificate is not for it."""
        if self._certificate is None or not self._ports or not self._certificate.covers(host.lower()):
            return ""
        port = self._settings.tls_port
        return f"https://{host}" if port == 443 else f"https://{host}:{port}"

    def is_challenge(self, path: str) -> bool:
        """Whether a request is the authority's, whichever the host name."""
        return self._acme is not None and path.removeprefix(CHALLENGE_PATH) in self._acme.answers

    def routes(self) -> list[Route]:
        return [Route(CHALLENGE_PATH + "{token}", self._answer_challenge)] if self._acme is not None else []

    async def listen(
        self, http: HttpServer, grpc: Transport, cleanup: AsyncExitStack, inside: Inside | None = None
    ) -> None:
        """Serves both over TLS, as soon as there is a certificate. Raises FailedPrecondition when the port is taken."""

        def open_port(port: TlsPort, host: str, number: int) -> None:
            port.listen(host, number)
            cleanup.callback(port.close)
            self._ports.append(port)

        async def open_ports() -> None:
            if self._certificate is None:
                assert self._acme is not None
                self._certificate = Certificate(self._acme.cert, self._acme.key)
            elif self._acme is not None:
                self._certificate.load()
            if self._ports:
                return
            context, limit = self._certificate.context, self._settings.max_connections_per_address
            both = TlsPort(context, http=http.connection, h2=grpc.connection, per_address=limit)
            open_port(both, self._settings.host, self._settings.tls_port)
            if inside is not None:
                web = TlsPort(context, http=inside.http.connection, per_address=limit)
                open_port(web, inside.host, inside.port)

        if self._acme is not None:
            cleanup.push_async_callback(self._acme.close)
            self._acme.start(open_ports)
            return
        await open_ports()
        assert self._certificate is not None
        self._certificate.watch()
        cleanup.callback(self._certificate.close)

    async def _answer_challenge(self, request: Request) -> Response:
        assert self._acme is not None
        page = self._acme.answers.get(request.path_params["token"])
        return PlainTextResponse(page) if page is not None else PlainTextResponse("Nobody asked.", 404)
