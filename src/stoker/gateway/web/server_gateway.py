"""HTTP and websockets for @app.server: finds out whether a request is for one, and what its passage needs."""

from __future__ import annotations

from collections.abc import Callable

from stoker import errors
from stoker.gateway.web.access import AccessLog
from stoker.gateway.web.admission import Admission
from stoker.gateway.web.answers import BODY_SILENCE, STOPPING
from stoker.gateway.web.front import Front
from stoker.gateway.web.heads import path_of
from stoker.gateway.web.passage import Passage
from stoker.gateway.web.session_passage import SessionPassage
from stoker.gateway.web.upstream import Upstreams
from stoker.services.apps.endpoints import Endpoints
from stoker.services.functions.spec import ServerSpec
from stoker.services.pools.server_sessions import ServerSessions
from stoker.services.pools.servers import Servers
from stoker.services.watch.server_requests import Remember, remember_nothing


class ServerGateway:
    def __init__(
        self,
        *,
        endpoints: Endpoints,
        servers: Servers,
        admission: Admission,
        log: AccessLog,
        is_stopping: Callable[[], bool] = lambda: False,
        body_silence: float = BODY_SILENCE,
        remember: Remember = remember_nothing,
    ) -> None:
        """is_stopping: whether containers take nothing new, so that a request would wait until the server is gone. body_silence: seconds
        for which a client may send nothing of an unfinished body. remember: is told of every request that was let in, when it is over."""
        self.body_silence = body_silence
        self.remember = remember
        self._is_stopping = is_stopping
        self.servers = servers
        self.sessions = ServerSessions(servers)
        self.admission = admission
        self.log = log
        self.upstreams = Upstreams()
        self._endpoints = endpoints

    def passage(self, front: Front) -> Passage | None:
        """For the request whose head a connection has just parsed; None when it is not for an @app.server."""
        host = next((value for name, value in front.headers if name == b"host"), b"")
        try:
            place = self._endpoints.locate(
                host.decode("latin-1"), path_of(front.url).partition(b"?")[0].decode("latin-1")
            )
        except errors.NotFound:
            return None
        if place is None or not isinstance(place.endpoint.target, ServerSpec):
            return None
        kind = SessionPassage if place.endpoint.target.sessioned else Passage
        return kind(front, self, place, place.endpoint.target)

    def check_open(self) -> None:
        """Raises Unavailable."""
        if self._is_stopping():
            raise errors.Unavailable(STOPPING)

    async def close(self) -> None:
        self.upstreams.close()
