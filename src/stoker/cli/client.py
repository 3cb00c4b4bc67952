"""What another command needs to know of the running server in order to be its client."""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.datadir import DataDir, ServerInfo
from stoker.errors import FailedPrecondition, InvalidArgument, NotFound, StokerError, Unauthenticated, Unavailable

_TIMEOUT = 10.0
_FAMILY: dict[int, type[StokerError]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    404: NotFound,
    429: Unauthenticated,
}


@dataclass(frozen=True)
class Connection:
    """A running server and the local administrator's token for it."""

    server: ServerInfo
    token_id: str
    token_secret: str

    def environment(self) -> dict[str, str]:
        """The variables that point the `modal` client at this server."""
        return {
            "MODAL_SERVER_URL": self.server.url,
            "MODAL_TOKEN_ID": self.token_id,
            "MODAL_TOKEN_SECRET": self.token_secret,
        }

    def get(self, path: str) -> Any:
        """A JSON document of the server's own HTTP interface. Raises StokerError as `request` does."""
        return self.request("GET", path)

    def request(self, method: str, path: str, body: object = None, *, timeout: float = _TIMEOUT) -> Any:
        """Sends a JSON body (none for None); the JSON document that is the answer.

        Raises Unavailable when there is none, else an error that has the server's sentence."""
        headers = {"Modal-Token-Id": self.token_id, "Modal-Token-Secret": self.token_secret}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.server.http_url + path, data, headers, method=method)
        # Without the environment's proxies: the server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace").strip()
            family = _FAMILY.get(error.code, FailedPrecondition)
            raise family(text or f"The server answered {error.code} ({error.reason}) to {path}.") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Unavailable(
                f"The server (pid {self.server.pid}) does not answer at {self.server.http_url}: {reason}. "
                "It may be starting, stopping or overloaded; its log says more."
            ) from None


def find_server(directory: DataDir) -> Connection | None:
    """The server that is ready on this directory, or None. Raises FailedPrecondition when its token is missing."""
    server = directory.read_server()
    if server is None:
        return None
    token = directory.read_token()
    if token is None:
        raise FailedPrecondition(
            f"A server runs on {directory.path} but {directory.token_file} is missing, so there is no token to use. "
            "Put it back from a backup, or set MODAL_SERVER_URL, MODAL_TOKEN_ID and MODAL_TOKEN_SECRET yourself."
        )
    return Connection(server, *token)


def require_server(directory: DataDir, given: Path | None) -> Connection:
    """Like `find_server`. Raises Unavailable or NotFound with what to do when none is ready; `given` is the --data flag."""
    connection = find_server(directory)
    if connection is not None:
        return connection
    flag = f" --data {shlex.quote(str(given))}" if given else ""
    pid = directory.holder()
    if pid is not None:
        raise Unavailable(f"The server of {directory.path} (pid {pid}) is starting or stopping. Try again in a moment.")
    raise NotFound(
        f"No server runs on {directory.path}. Start one with `stoker up{flag} --detach`; "
        "if it keeps its data elsewhere, name the directory with --data."
    )
