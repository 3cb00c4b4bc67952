"""Starts all parts in order, and stops them in reverse."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import time
from typing import Any

import structlog

from stoker import descriptors
from stoker.config import Settings
from stoker.datadir import DataDir, ServerInfo
from stoker.errors import FailedPrecondition
from stoker.rpc.methods import methods_of
from stoker.rpc.transport import Transport
from stoker.server.addresses import Ports, reachable
from stoker.server.events import connect
from stoker.server.sandboxes import open_runtime
from stoker.server.servicers import make_call_servicer, make_servicers
from stoker.server.services import Services
from stoker.server.status import status
from stoker.server.tls import Inside, Tls
from stoker.server.web import WebParts, serve_containers, serve_web

_log = structlog.get_logger(__name__)


class Server:
    """A whole server in this process. `start` and `stop` once each."""

    def __init__(self, settings: Settings, services: type[Services] = Services) -> None:
        """services: tests have others."""
        self.settings = settings
        self.data = DataDir(settings.data)
        self.url = ""
        self.http_url = ""
        self._started_at = time.time()
        self._cleanup = contextlib.AsyncExitStack()
        self._services = services(settings, self.data, self._cleanup)
        self._drain_seconds = settings.drain_seconds
        self._draining = False

    @property
    def new_token(self) -> tuple[str, str] | None:
        """Id and secret of the first token, when this start made it."""
        return self._services.new_token

    async def start(self) -> None:
        """Raises StokerError with the sentence for the user; nothing is left running then."""
        try:
            await self._start()
        except BaseException:
            await self._cleanup.aclose()
            raise

    async def stop(self) -> None:
        """Lets running inputs finish for `drain_seconds`, then ends everything and leaves nothing behind."""
        await self._cleanup.aclose()

    async def hurry(self) -> None:
        """Ends running inputs now, while `stop` is under way."""
        self._drain_seconds = 0.0
        scheduler = self._services.scheduler
        for task in scheduler.tasks():
            runner = scheduler.runner(task.function_id)
            if runner is not None:
                runner.kill(task.id, "The server stops.")

    async def status(self) -> dict[str, Any]:
        """What `stoker status` shows."""
        return status(self._services, started_at=self._started_at, grpc_url=self.url, http_url=self.http_url)

    async def _start(self) -> None:
        settings, data, services, cleanup = self.settings, self.data, self._services, self._cleanup
        descriptors.raise_limit()
        data.create()
        data.lock()
        cleanup.callback(data.unlock)
        self._check_disk()
        tls = Tls(settings, data) if settings.secure else None
        ports = Ports.choose(settings, data)
        runtime, builder = await open_runtime(settings, data, ports)
        await services.open(ports=ports, runtime=runtime, builder=builder)
        call_servicer = make_call_servicer(services)
        connect(services, call_servicer)
        if tls is not None:
            services.urls.secure_base = tls.base_for
            services.endpoints.is_servers_own = tls.is_challenge
        routes = tls.routes() if tls is not None else ()
        parts = WebParts(services, cleanup, lambda: self._draining)
        http = await serve_web(services, parts, self.status, ports.clients, cleanup, routes)
        self.http_url = f"http://{reachable(settings.host)}:{ports.clients}"
        inside: Inside | None = None
        address = runtime.host_address()
        if address is not None:
            gateway = await serve_containers(services, parts, address, ports.containers, cleanup)
            inside = Inside(gateway, address, ports.containers_tls) if ports.containers_tls else None
        transport = Transport(
            methods_of(make_servicers(services, call_servicer, self.http_url)),
            services.tokens,
            services.ownership,
            per_address=settings.max_connections_per_address,
        )
        services.launcher.doors = transport
        services.uplink.transport = transport
        cleanup.push_async_callback(transport.close)
        cleanup.push_async_callback(self._drain)
        cleanup.push_async_callback(services.apps.close)
        self._resume()
        services.do_chores()
        port = await transport.listen(settings.host, settings.port)
        if tls is not None:
            await tls.listen(http, transport, cleanup, inside)
        self.url = f"http://{reachable(settings.host)}:{port}"
        data.write_server(ServerInfo(os.getpid(), self.url, self.http_url, self._started_at, runtime.name))
        # What was loaded stays, and need not be looked through again for garbage: that took a tenth of a second each time.
        gc.collect()
        gc.freeze()
        _log.info("ready", url=self.url, http=self.http_url, runtime=runtime.name)

    def _resume(self) -> None:
        """What the last server knew of apps and calls is known again, and goes on."""
        apps = self._services.apps
        apps.load()
        for app in apps.all():
            if not app.is_over:
                apps.on_publish(app, [])
        self._services.canaries.load()
        self._services.calls.load()

    async def _drain(self) -> None:
        self._draining = True
        await self._services.scheduler.close(self._drain_seconds)

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self.data.path).free
        if free < self.settings.min_free_disk_mib << 20:
            raise FailedPrecondition(
                f"Only {free >> 20} MiB are free in {self.data.path}, and the server wants {self.settings.min_free_disk_mib}. "
                "Free some space, choose another --data directory, or lower the setting min_free_disk_mib."
            )
