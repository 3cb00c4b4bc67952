"""The web apps deployed on a server, and an HTTP client with no opinions."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.conftest import RunningServer

MIB = 1 << 20


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Web:
    """The web endpoints of one deployed app."""

    server: RunningServer
    app: str

    @property
    def base(self) -> str:
        return str(json.loads((self.server.data / "server.json").read_text())["http_url"])

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.base)
        return parts.hostname or "", parts.port or 0

    def path(self, function: str, path: str = "") -> str:
        return f"/w/local--{self.app}-{function}{path}"

    def open(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Sends a request; the answer is still to be read."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        connection.request(method, path, body=body, headers=dict(headers or {}))
        return connection, connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        connection, response = self.open(method, path, body, headers)
        with connection_closed(connection):
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def ask_from(self, address: str, path: str, headers: Mapping[str, str]) -> Answer:
        """A GET from another address of this machine."""
        connection = http.client.HTTPConnection(*self.address, timeout=60, source_address=(address, 0))
        with connection_closed(connection):
            connection.request("GET", path, headers=dict(headers))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, function: str, path: str = "/", **headers: str) -> Answer:
        return self.ask("GET", self.path(function, path), headers=headers)

    def raw(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def status(self) -> Any:
        """What `stoker status` shows."""
        token = json.loads((self.server.data / "token.json").read_text())
        headers = {"Modal-Token-Id": token["id"], "Modal-Token-Secret": token["secret"]}
        return self.ask("GET", "/_stoker/status", headers=headers).json()

    def metric(self, name: str) -> float:
        """A number that the server counts, over all its labels."""
        lines = self.ask("GET", "/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    def memory(self) -> int:
        """Resident bytes of the server now."""
        return int(psutil.Process(self.server.pid).memory_info().rss)


class connection_closed:
    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    """Waits until something is true that comes about by itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def web(server: RunningServer) -> Iterator[Web]:
    server.modal("deploy", "web.py")
    yield Web(server, "web")


@pytest.fixture(scope="session")
def servers(server: RunningServer) -> Iterator[Web]:
    server.modal("deploy", "server.py")
    yield Web(server, "server")
