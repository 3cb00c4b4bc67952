"""The composition root: builds the parts, starts them in order, stops them in reverse. The only file that knows all parts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import time
from functools import partial
from typing import Any

import structlog

from stoker import __version__
from stoker.config import Settings
from stoker.datadir import DataDir, ServerInfo
from stoker.engine.gpus import declared_gpus, find_gpus
from stoker.engine.local import LocalEngine
from stoker.errors import FailedPrecondition
from stoker.gateway.app import make_container_gateway, make_gateway
from stoker.gateway.endpoint import FunctionGateway
from stoker.gateway.serve import HttpServer
from stoker.gateway.server_proxy import ServerGateway
from stoker.gateway.snapshots import SnapshotRoutes
from stoker.gateway.tokens import TokenRoutes, page_path
from stoker.gateway.transfer import Transfer
from stoker.gateway.web import WebGateway
from stoker.images.base import ImageBuilder
from stoker.node.agent import Node
from stoker.protocol.apps import AppServicer
from stoker.protocol.blobs import BlobServicer
from stoker.protocol.calls import CallServicer
from stoker.protocol.containers import ContainerServicer
from stoker.protocol.deployments import DeploymentServicer
from stoker.protocol.dicts import DictServicer
from stoker.protocol.environments import EnvironmentServicer
from stoker.protocol.functions import FunctionServicer
from stoker.protocol.history import HistoryServicer
from stoker.protocol.images import ImageServicer
from stoker.protocol.metadata import Metadata
from stoker.protocol.mounts import MountServicer
from stoker.protocol.queues import QueueServicer
from stoker.protocol.rpc import methods_of
from stoker.protocol.secrets import SecretServicer
from stoker.protocol.servers import ServerServicer
from stoker.protocol.suggestions import SuggestionServicer
from stoker.protocol.tokens import TokenServicer
from stoker.protocol.transport import Transport
from stoker.protocol.volumes import VolumeServicer
from stoker.protocol.web import AsgiWire
from stoker.protocol.wire import ModalWire
from stoker.protocol.workspace import WorkspaceServicer
from stoker.runtime.base import Runtime
from stoker.services.apps import DEPLOYED, DETACHED_DISCONNECTED, App, Apps
from stoker.services.blobs import Blobs
from stoker.services.calls import WEB, Call, Calls, Limits
from stoker.services.checkpoints import Checkpoints
from stoker.services.deployments import Deployments
from stoker.services.dicts import Dicts
from stoker.services.endpoints import Endpoints, domain_for
from stoker.services.environments import Environments
from stoker.services.functions import Functions
from stoker.services.history import History
from stoker.services.housekeeping import Housekeeping, forget_old_calls, forget_old_logs
from stoker.services.images import Images
from stoker.services.keys import load_or_create_key
from stoker.services.launcher import ContainerLauncher
from stoker.services.logs import Logs
from stoker.services.mounts import Mounts
from stoker.services.proxy_tokens import ProxyTokens
from stoker.services.queues import Queues
from stoker.services.scheduler import Scheduler
from stoker.services.secrets import Secrets
from stoker.services.servers import Servers
from stoker.services.snapshots import Snapshots
from stoker.services.streams import Streams
from stoker.services.token_flows import TokenFlows
from stoker.services.tokens import Tokens
from stoker.services.transfer import TransferUrls, UrlSigner
from stoker.services.upkeep import Upkeep
from stoker.services.volume_files import VolumeFiles
from stoker.services.volumes import Volumes
from stoker.services.webcalls import WebCalls
from stoker.store.blobs import BlobStore
from stoker.store.contents import Contents
from stoker.store.database import Database

_log = structlog.get_logger(__name__)


class Server:
    """A whole server in this process. `start` and `stop` once each."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data = DataDir(settings.data)
        self.url = ""
        self.http_url = ""
        self.new_token: tuple[str, str] | None = None
        self._started_at = time.time()
        self._cleanup = contextlib.AsyncExitStack()
        self._drain_seconds = settings.drain_seconds

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
        for task in self._scheduler.tasks():
            runner = self._scheduler.runner(task.function_id)
            if runner is not None:
                runner.kill(task.id, "The server stops.")

    async def _start(self) -> None:
        settings, data = self.settings, self.data
        data.create()
        data.lock()
        self._cleanup.callback(data.unlock)
        self._check_disk()
        database = Database.open(settings.database_url or f"sqlite:///{data.database}", synchronous=settings.durability)
        self._cleanup.push_async_callback(database.close)
        tokens = Tokens(database)
        if not tokens.works(*(data.read_token() or ("", ""))):
            is_first = not tokens.all()
            token = await tokens.create("first" if is_first else "administrator")
            data.write_token(*token)
            self.new_token = token if is_first else None
        self._cleanup.push_async_callback(tokens.save_uses)
        environments = Environments(
            database=database, default=settings.environment, image_builder_version=settings.image_builder_version
        )
        await environments.load()

        proxy_tokens = ProxyTokens(database=database, environments=environments)
        flows = TokenFlows(tokens)

        gateway_port, container_port = self._free_port(settings.http_port), _any_port()
        runtime, builder = await self._runtime_and_builder(container_port)
        signer = UrlSigner(load_or_create_key(data.signing_key))
        urls = TransferUrls(
            signer=signer,
            client_host=_reachable(settings.host),
            client_port=gateway_port,
            container_base=f"http://{runtime.host_address()}:{container_port}" if runtime.host_address() else "",
        )
        wire = ModalWire()
        wire.shares_ports = not runtime.isolates
        logs = Logs(database)
        self._cleanup.push_async_callback(logs.close)
        contents = Contents(data.files)
        blobs = Blobs(database=database, store=BlobStore.local(data.blobs))
        mounts = Mounts(database=database, contents=contents, blobs=blobs, directory=data.mounts)
        secrets = Secrets(
            database=database,
            environments=environments,
            key=load_or_create_key(data.path / "secret.key"),
        )
        volumes = Volumes(database=database, environments=environments, directory=data.volumes)
        volume_files = VolumeFiles(volumes=volumes, contents=contents)
        dicts = Dicts(database=database, environments=environments)
        queues = Queues(database=database, environments=environments)
        upkeep = Upkeep([volumes.sweep, dicts.objects.sweep, queues.sweep, tokens.save_uses])
        upkeep.start()
        self._cleanup.push_async_callback(upkeep.close)
        functions = Functions(database, wire)
        apps = Apps(database, functions, logs, client_lost_seconds=settings.client_lost_seconds)
        self._apps = apps
        endpoints = Endpoints(
            workspace=settings.workspace,
            host=_reachable(settings.host),
            port=gateway_port,
            domain=await asyncio.to_thread(domain_for, settings.host, settings.web_domain),
            apps=apps,
            functions=functions,
            environments=environments,
        )
        images = Images(database, builder)
        self._cleanup.push_async_callback(images.close)

        def environment_of(app_id: str) -> str:
            environment_id = apps.get(app_id).environment_id
            return next(e.name for e in environments.all() if e.id == environment_id)

        node = Node(runtime, builder, data.run / "tasks")
        engine = LocalEngine((*find_gpus(), *declared_gpus(settings.fake_gpus)))
        self._engine = engine
        snapshots = Snapshots(
            database=database,
            directory=data.snapshots,
            quota_bytes=int(settings.snapshot_quota_gib * (1 << 30)),
            is_alive=lambda app_id: not apps.get(app_id).is_over,
        )
        self._cleanup.push_async_callback(snapshots.close)
        await snapshots.load()
        checkpoints = Checkpoints(snapshots)
        launcher = ContainerLauncher(
            database=database,
            engine=engine,
            node=node,
            images=images,
            mounts=mounts,
            secrets=secrets,
            volumes=volumes,
            logs=logs,
            wire=wire,
            environment_of=environment_of,
            snapshots=snapshots,
            checkpoints=checkpoints,
            snapshot_apps=partial(self._may_have_snapshots, apps),
            reseed=settings.snapshot_reseed,
            data_dir=data.path,
            min_free_bytes=settings.min_free_disk_mib << 20,
        )
        self._cleanup.push_async_callback(launcher.close)
        scheduler = Scheduler(functions, apps, launcher)
        self._scheduler = scheduler
        engine.on_release = scheduler.resources_released
        calls = Calls(
            database,
            scheduler,
            wire,
            Limits(settings.max_pending_inputs, settings.max_inputs, settings.max_pending_spawned),
        )
        self._cleanup.push_async_callback(calls.close)
        outward, inward = Streams(), Streams()
        web_calls = WebCalls(calls, scheduler, AsgiWire(blobs))
        servers = Servers(scheduler, key=load_or_create_key(data.signing_key), max_pending=settings.max_pending_inputs)
        metadata = Metadata(apps, functions, volumes, endpoints)
        wire.metadata = metadata
        call_servicer = CallServicer(calls=calls, functions=functions, outward=outward, inward=inward, web=web_calls)
        self._connect(apps, scheduler, calls, call_servicer, endpoints, web_calls)

        # The container side must listen on the address the runtime provides, so the runtime opens first.
        await node.open()
        self._cleanup.push_async_callback(node.close)
        transfer = Transfer(blobs=blobs, files=volume_files, signer=signer)
        proxy = ServerGateway(servers)
        self._cleanup.push_async_callback(proxy.close)
        web = WebGateway(
            make_gateway(
                transfer=transfer,
                status=self.status,
                authenticate=tokens.authenticate,
                routes=[
                    *TokenRoutes(tokens=tokens, flows=flows).routes(),
                    *SnapshotRoutes(
                        snapshots=snapshots,
                        authenticate=tokens.authenticate,
                        names=lambda app_id, function_id: (apps.get(app_id).name, functions.get(function_id).name),
                    ).routes(),
                ],
            ),
            endpoints=endpoints,
            functions=FunctionGateway(web_calls, redirect_after=settings.web_redirect_seconds),
            servers=servers,
            proxy=proxy,
            check_token=lambda key, secret, app_id: proxy_tokens.check(key, secret, apps.get(app_id).environment_id),
        )
        await self._serve_http(web, settings.host, gateway_port)
        self.http_url = f"http://{_reachable(settings.host)}:{gateway_port}"
        address = runtime.host_address()
        if address is not None:
            await self._serve_http(make_container_gateway(transfer=transfer), address, container_port)

        deployments = Deployments(database=database, apps=apps, functions=functions)
        history = History(database=database, functions=functions, scheduler=scheduler)
        servicers = [
            AppServicer(
                apps=apps,
                environments=environments,
                logs=logs,
                metadata=metadata,
                scheduler=scheduler,
                page_url=self.http_url,
            ),
            FunctionServicer(
                functions=functions,
                apps=apps,
                environments=environments,
                metadata=metadata,
                endpoints=endpoints,
                scheduler=scheduler,
            ),
            call_servicer,
            ContainerServicer(calls=calls, scheduler=scheduler, checkpoints=checkpoints),
            ServerServicer(servers=servers, functions=functions),
            ImageServicer(images=images, mounts=mounts, secrets=secrets),
            WorkspaceServicer(
                workspace=settings.workspace,
                dashboard_url=self.http_url,
                apps=apps,
                environments=environments,
                scheduler=scheduler,
                tokens=tokens,
            ),
            BlobServicer(blobs=blobs, urls=urls),
            MountServicer(mounts=mounts),
            VolumeServicer(volumes=volumes, files=volume_files, environments=environments, urls=urls),
            SecretServicer(secrets=secrets, environments=environments),
            EnvironmentServicer(environments=environments),
            DictServicer(dicts=dicts, environments=environments),
            QueueServicer(queues=queues, environments=environments),
            DeploymentServicer(
                deployments=deployments,
                apps=apps,
                functions=functions,
                environments=environments,
                workspace=settings.workspace,
                page_url=lambda app: f"{self.http_url}/apps/{app.id}",
            ),
            HistoryServicer(history=history, functions=functions, apps=apps, deployments=deployments),
            SuggestionServicer(apps=apps, functions=functions, environments=environments),
            TokenServicer(
                workspace=settings.workspace,
                tokens=tokens,
                flows=flows,
                proxy_tokens=proxy_tokens,
                environments=environments,
                page_url=lambda page: self.http_url + page_path(page),
            ),
        ]
        chores = (
            volumes.sweep,
            blobs.sweep,
            snapshots.sweep,
            partial(forget_old_calls, database, settings.result_days),
            partial(forget_old_logs, database, settings.result_days),
        )
        self._cleanup.push_async_callback(Housekeeping(chores).close)
        transport = Transport(methods_of(servicers), tokens)
        launcher.sockets = transport
        checkpoints.connections = transport
        self._cleanup.push_async_callback(transport.close)
        self._cleanup.push_async_callback(self._drain)
        self._cleanup.push_async_callback(apps.close)
        apps.load()
        calls.load()
        for app in apps.all():
            if not app.is_over:
                apps.on_publish(app, [])
        port = await transport.listen(settings.host, settings.port)
        self.url = f"http://{_reachable(settings.host)}:{port}"
        data.write_server(ServerInfo(os.getpid(), self.url, self.http_url, self._started_at, runtime.name))
        _log.info("ready", url=self.url, http=self.http_url, runtime=runtime.name)

    async def status(self) -> dict[str, Any]:
        """What `stoker status` shows."""
        disk = shutil.disk_usage(self.data.path)
        apps = [a for a in self._apps.all() if not a.is_over]
        names = {a.id: a.name or a.description for a in apps}
        return {
            "version": __version__,
            "uptime_seconds": time.time() - self._started_at,
            "urls": {"grpc": self.url, "http": self.http_url},
            "runtime": self.settings.runtime,
            "workspace": self.settings.workspace,
            "apps": [
                {"id": a.id, "name": names[a.id], "state": a.state, "containers": len(self._scheduler.tasks(a.id))}
                for a in apps
            ],
            "functions": [
                {
                    "id": r.function.id,
                    "name": r.function.name,
                    "app": names.get(r.function.app_id, r.function.app_id),
                    "pending": r.pool.backlog,
                    "running": r.pool.running,
                    "containers": len(r.tasks),
                }
                for r in self._scheduler.runners()
            ],
            "containers": [
                {
                    "id": t.id,
                    "function": t.function_id,
                    "app": names.get(t.app_id, t.app_id),
                    "state": "running" if t.started_at else "starting",
                    "started_at": t.started_at or t.enqueued_at,
                }
                for t in self._scheduler.tasks()
            ],
            "engine": self._engine.inventory(),
            "disk": {"free_bytes": disk.free, "total_bytes": disk.total},
        }

    def _connect(
        self,
        apps: Apps,
        scheduler: Scheduler,
        calls: Calls,
        servicer: CallServicer,
        endpoints: Endpoints,
        web_calls: WebCalls,
    ) -> None:
        """The events that go from one service to another."""

        async def end_app(app: App, drain: bool) -> None:
            endpoints.forget(app.id)
            await calls.cancel_app(app.id)
            await scheduler.stop_app(app.id, drain=drain)

        def call_finished(call: Call) -> None:
            if call.kind == WEB:
                web_calls.finished(call)
            if call.kind == "unary":
                servicer.forget_later(call)
            app = apps.get(call.app_id)
            if app.state == DETACHED_DISCONNECTED and not calls.unfinished(app.id):
                apps.stop_soon(app)

        def published(app: App, changed: list[str]) -> None:
            endpoints.publish(app)
            scheduler.redefine(app, changed)

        apps.on_publish = published
        apps.on_stop = end_app
        calls.on_call_finished = call_finished

    def _may_have_snapshots(self, apps: Apps, app_id: str) -> bool:
        settings = self.settings
        return settings.memory_snapshots and (settings.snapshot_ephemeral or apps.get(app_id).state == DEPLOYED)

    async def _serve_http(self, app: Any, host: str, port: int) -> None:
        server = HttpServer(app)
        self._cleanup.push_async_callback(server.stop)
        await server.start([host], port)

    async def _drain(self) -> None:
        await self._scheduler.close(self._drain_seconds)

    async def _runtime_and_builder(self, container_port: int) -> tuple[Runtime, ImageBuilder]:
        settings, data = self.settings, self.data
        if settings.runtime == "process":
            from stoker.images.host import HostImages
            from stoker.runtime.process import ProcessRuntime

            images = HostImages(data.path, python=settings.process_python)
            await images.open()
            return ProcessRuntime(data.run / "process"), images
        from stoker.images.builder import BuildahImageBuilder
        from stoker.runtime.runsc import RunscRuntime
        from stoker.runtime.runsc_binary import find_runsc, find_tini

        runtime = RunscRuntime(
            data.run / "runsc", runsc=find_runsc(settings.runsc_path), tini=find_tini(), gateway_port=container_port
        )
        builder = BuildahImageBuilder(
            data.path,
            registry_mirrors=settings.registry_mirrors,
            insecure_registries=settings.insecure_registries,
        )
        await builder.open()
        return runtime, builder

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self.data.path).free
        if free < self.settings.min_free_disk_mib << 20:
            raise FailedPrecondition(
                f"Only {free >> 20} MiB are free in {self.data.path}, and the server wants {self.settings.min_free_disk_mib}. "
                "Free some space, choose another --data directory, or lower the setting min_free_disk_mib."
            )

    def _free_port(self, wanted: int) -> int:
        """`http_port`, or the port after the gRPC one, or any that is free."""
        if wanted:
            return wanted
        candidates = (self.settings.port + 1, 0) if self.settings.port else (0,)
        for candidate in candidates:
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self.settings.host, candidate))
                return int(probe.getsockname()[1])
        raise FailedPrecondition(f"No port is free on {self.settings.host}: is that an address of this machine?")


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    """An address for URLs: one listens on 0.0.0.0 but does not call it."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
