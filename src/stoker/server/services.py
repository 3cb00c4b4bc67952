"""All services of one server, built in the order in which they need each other."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import AsyncExitStack
from functools import partial

from stoker.agent.node import LocalNode
from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.engine.gpus import declared_gpus, find_gpus, gpu_answers
from stoker.engine.local import local_engine
from stoker.images.base import ImageBuilder
from stoker.nodes.base import Node
from stoker.protocol.metadata import Metadata
from stoker.protocol.web import AsgiWire
from stoker.protocol.wire import ModalWire
from stoker.runtime.base import Runtime
from stoker.server.addresses import Ports, identity_issuer, reachable
from stoker.server.places import ServerPlaces
from stoker.server.uplink import ServicesObserver, TransportUplink
from stoker.services.access.attempts import Attempts
from stoker.services.access.keys import load_or_create_key, load_or_create_rsa_key, secrets_key
from stoker.services.access.ownership import Ownership
from stoker.services.access.proxy_tokens import ProxyTokens
from stoker.services.access.token_flows import TokenFlows
from stoker.services.access.tokens import Tokens
from stoker.services.apps.apps import DEPLOYED, Apps
from stoker.services.apps.canaries import Canaries
from stoker.services.apps.deployments import Deployments
from stoker.services.apps.endpoints import Audience, Endpoints, domain_for
from stoker.services.calls.calls import Calls, Limits
from stoker.services.calls.function_builds import FunctionBuilds
from stoker.services.calls.schedules import Schedules
from stoker.services.calls.web_history import WebHistory
from stoker.services.calls.webcalls import WebCalls
from stoker.services.containers.bases import Bases
from stoker.services.containers.checkpoints import Checkpoints
from stoker.services.containers.identity_tokens import IdentityTokens
from stoker.services.containers.launcher import ContainerLauncher, Starts
from stoker.services.containers.materials import Materials
from stoker.services.containers.snapshot_checks import SnapshotChecks
from stoker.services.containers.snapshots import Snapshots
from stoker.services.containers.spares import Spares
from stoker.services.containers.surroundings import Surroundings
from stoker.services.environments.environments import Environments
from stoker.services.files.blobs import Blobs
from stoker.services.files.buckets import Buckets
from stoker.services.files.mounts import Mounts
from stoker.services.files.network_files import NetworkFiles
from stoker.services.files.transfer import TransferUrls, UrlSigner
from stoker.services.files.volume_files import VolumeFiles
from stoker.services.files.volumes import Volumes
from stoker.services.functions.functions import Functions
from stoker.services.images.image_names import ImageNames
from stoker.services.images.images import Images
from stoker.services.images.layer_checks import LayerChecks
from stoker.services.pools.heartbeats import Heartbeats
from stoker.services.pools.pool_faults import checked_pool, plain_pool
from stoker.services.pools.scheduler import Scheduler
from stoker.services.pools.servers import Servers
from stoker.services.state.dicts import Dicts
from stoker.services.state.queues import Queues
from stoker.services.state.secrets import Secrets
from stoker.services.telemetry.damages import Damages
from stoker.services.telemetry.logs import Logs
from stoker.services.telemetry.metrics import Metrics
from stoker.services.telemetry.telemetry import Telemetry
from stoker.services.upkeep.forget import Housekeeping, forget_old_calls, forget_old_logs, forget_old_tasks
from stoker.services.upkeep.image_storage import ImageStorage
from stoker.services.watch.history import History
from stoker.services.watch.present import Present
from stoker.services.watch.server_requests import ServerRequests
from stoker.services.watch.traffic import Traffic
from stoker.store.blobs import BlobStore
from stoker.store.contents import Contents
from stoker.store.database import Database


class Services:
    """Made by `open`, which pushes what each needs at its end onto `cleanup`."""

    def __init__(self, settings: Settings, data: DataDir, cleanup: AsyncExitStack) -> None:
        self.settings = settings
        self.data = data
        self._cleanup = cleanup
        self.new_token: tuple[str, str] | None = None

    async def open(self, *, ports: Ports, runtime: Runtime, builder: ImageBuilder) -> None:
        """Raises StokerError with the sentence for the user; the caller closes `cleanup` then."""
        self._database()
        await self._who_may_call()
        address = runtime.host_address()
        container_base = f"http://{address}:{ports.containers}" if address else ""
        await self._named_state(ports, container_base)
        self._node(runtime, builder)
        await self._apps(ports, container_base)
        await self._containers(runtime)
        self._calls()
        # The container side must listen on the address the runtime provides, so the runtime opens before any listener.
        await self._machine.open()
        self._cleanup.push_async_callback(self._machine.close)

    def reach(self, machine: LocalNode) -> Node:
        """The server's own machine as the services ask it: directly. Tests put a wire in between."""
        return machine

    def _database(self) -> None:
        settings, data = self.settings, self.data
        if not settings.database_url:
            data.check_database()
        self.database = Database.open(
            settings.database_url or f"sqlite:///{data.database}", synchronous=settings.durability
        )
        self._cleanup.push_async_callback(self.database.close)
        self.damages = Damages(self.database)
        self._cleanup.push_async_callback(self.damages.close)
        self._sync = settings.durability == "FULL"
        self._blob_store = BlobStore.open(settings.blob_store, data.blobs, sync=self._sync)

    async def _who_may_call(self) -> None:
        settings, data = self.settings, self.data
        self.metrics = Metrics()
        self.metrics.watch(
            "stoker_damaged", "Things on the disk that are known to be damaged.", lambda: len(self.damages)
        )
        self.attempts = Attempts(self.metrics.authentication_failed)
        self.tokens = Tokens(self.database, self.attempts)
        if not self.tokens.works(*(data.read_token() or ("", ""))):
            is_first = not self.tokens.all()
            token = await self.tokens.create("first" if is_first else "administrator")
            data.write_token(*token)
            self.new_token = token if is_first else None
        self._cleanup.push_async_callback(self.tokens.close)
        self.token_flows = TokenFlows(self.tokens)
        self.environments = Environments(
            database=self.database, default=settings.environment, image_builder_version=settings.image_builder_version
        )
        await self.environments.load()
        await self._blob_store.check()
        self.proxy_tokens = ProxyTokens(database=self.database, environments=self.environments, attempts=self.attempts)

    async def _named_state(self, ports: Ports, container_base: str) -> None:
        settings, data, database = self.settings, self.data, self.database
        self.signer = UrlSigner(load_or_create_key(data.signing_key))
        self.urls = TransferUrls(
            signer=self.signer,
            client_host=reachable(settings.host),
            client_port=ports.clients,
            container_base=container_base,
        )
        contents = Contents(data.files, sync=self._sync)
        self.logs = Logs(database)
        self._cleanup.push_async_callback(self.logs.close)
        self.blobs = Blobs(database=database, store=self._blob_store, damages=self.damages)
        self._cleanup.push_async_callback(self.blobs.close)
        self.mounts = Mounts(
            database=database, contents=contents, blobs=self.blobs, directory=data.mounts, damages=self.damages
        )
        secret_key = await asyncio.to_thread(
            secrets_key,
            data.path / "secret.key",
            file=settings.secret_key_file,
            command=settings.secret_key_command,
        )
        self.secrets = Secrets(database=database, environments=self.environments, key=secret_key)
        self.secrets.check_key()
        self.volumes = Volumes(
            database=database,
            environments=self.environments,
            directory=data.volumes,
            damages=self.damages,
            sync=self._sync,
        )
        self.volume_files = VolumeFiles(volumes=self.volumes, contents=contents)
        self.network_files = NetworkFiles(
            database=database,
            environments=self.environments,
            volumes=self.volumes,
            blobs=self.blobs,
            directory=data.volumes,
        )
        self.dicts = Dicts(database=database, environments=self.environments)
        self.queues = Queues(database=database, environments=self.environments)
        for part in (self.mounts, self.secrets, self.volumes, self.network_files, self.queues, self.environments):
            self._cleanup.push_async_callback(part.close)

    def _node(self, runtime: Runtime, builder: ImageBuilder) -> None:
        settings, data = self.settings, self.data
        self.snapshots = Snapshots(
            database=self.database,
            directory=data.snapshots,
            quota_bytes=int(settings.snapshot_quota_gib * (1 << 30)),
            is_alive=lambda app_id: not self.apps.get(app_id).is_over,
        )
        places = ServerPlaces(
            mounts=self.mounts,
            volumes=self.volumes,
            network_files=self.network_files,
            snapshots=self.snapshots,
        )
        self.uplink = TransportUplink()
        self._machine = LocalNode(
            runtime, builder, places, self.uplink, data.run, data.images, settings.local_bucket_endpoints
        )
        self.node = self.reach(self._machine)

    async def _apps(self, ports: Ports, container_base: str) -> None:
        settings, database = self.settings, self.database
        self.wire = ModalWire()
        self.wire.predictive = settings.predictive_scaling
        self.functions = Functions(database, self.wire)
        self.apps = Apps(
            database,
            self.functions,
            self.logs,
            environments=self.environments,
            client_lost_seconds=settings.client_lost_seconds,
        )
        self.endpoints = Endpoints(
            workspace=settings.workspace,
            host=reachable(settings.host),
            port=settings.tls_port if settings.secure else ports.clients,
            secure=settings.secure,
            custom_domains=settings.custom_domains,
            domain=await asyncio.to_thread(domain_for, settings.host, settings.web_domain),
            apps=self.apps,
            functions=self.functions,
            environments=self.environments,
            container_base=container_base,
        )
        audiences: tuple[Audience, ...] = ("client", "container")
        nouns = (self.apps, self.functions, self.volumes, self.endpoints)
        self.metadata = {audience: Metadata(*nouns, audience, user=settings.workspace) for audience in audiences}
        self.wire.metadata = self.metadata["container"]
        self.deployments = Deployments(database=database, apps=self.apps, functions=self.functions)
        self.canaries = Canaries(
            database=database, apps=self.apps, functions=self.functions, deployments=self.deployments
        )
        self._cleanup.push_async_callback(self.canaries.close)
        key = await asyncio.to_thread(load_or_create_rsa_key, self.data.identity_key)
        self.identity_tokens = IdentityTokens(key, identity_issuer(settings, ports.clients))
        self.images = Images(
            database, self.node.builds, slots=settings.image_builds or max(2, (os.cpu_count() or 1) // 2)
        )
        self.image_names = ImageNames(database=database, environments=self.environments, images=self.images)
        self._cleanup.push_async_callback(self.images.close)
        self.layer_checks = LayerChecks(
            builds=self.node.builds, damages=self.damages, running=lambda: self.images.running()
        )
        self.images.check_layers = self.layer_checks.check

    async def _containers(self, runtime: Runtime) -> None:
        settings, data, database = self.settings, self.data, self.database
        self.wire.shares_ports = not runtime.isolates
        ceiling = runtime.memory_ceiling()
        self.engine = local_engine(
            (*find_gpus(), *declared_gpus(settings.fake_gpus)),
            memory_mib=None if ceiling is None else ceiling >> 20,
            disk_mib=shutil.disk_usage(data.path).total >> 20,
            healthy=gpu_answers,
        )
        self._cleanup.push_async_callback(self.snapshots.close)
        await self.snapshots.load()
        self.snapshot_checks = SnapshotChecks(
            snapshots=self.snapshots,
            damages=self.damages,
            replace=lambda task_id: self.scheduler.stop_task(task_id, graceful=True),
        )
        self._cleanup.push_async_callback(self.snapshot_checks.close)
        self.snapshot_checks.begin()
        self.checkpoints = Checkpoints(self.snapshots)
        self.bases = Bases(
            snapshots=self.snapshots, node=self.node, mounts=self.mounts, enabled=settings.base_snapshots
        )
        self._cleanup.push_async_callback(self.bases.close)
        spares = Spares(
            snapshots=self.snapshots,
            node=self.node,
            most=settings.prepared_sandboxes,
            is_idle=lambda: self.node.start_slots() > 0,
        )
        self.launcher = ContainerLauncher(
            database=database,
            engine=self.engine,
            node=self.node,
            materials=Materials(
                images=self.images,
                layer_checks=self.layer_checks,
                mounts=self.mounts,
                secrets=self.secrets,
                volumes=self.volumes,
                network_files=self.network_files,
                buckets=Buckets(secrets=self.secrets, node=self.node),
            ),
            starts=Starts(
                snapshots=self.snapshots,
                checkpoints=self.checkpoints,
                bases=self.bases,
                spares=spares,
                snapshot_apps=self._may_have_snapshots,
                reseed=settings.snapshot_reseed,
            ),
            surroundings=Surroundings(
                apps=self.apps,
                environments=self.environments,
                tokens=self.identity_tokens,
                workspace=settings.workspace,
                region=settings.region,
                cloud_provider=settings.cloud_provider,
            ),
            wire=self.wire,
            telemetry=Telemetry(self.logs, self.metrics),
            min_free_bytes=settings.min_free_disk_mib << 20,
        )
        self.node.observe(ServicesObserver(self.launcher, self.images, self.layer_checks))
        self._cleanup.push_async_callback(self.launcher.close)
        self.scheduler = Scheduler(
            self.functions,
            self.apps,
            self.launcher,
            self.engine,
            fair_after=settings.fair_after_seconds,
            make_pool=checked_pool if settings.validate_pools else plain_pool,
        )
        self.scheduler.check_layers = self.layer_checks.check
        self.launcher.printing = self.scheduler.printing
        self.heartbeats = Heartbeats(self.scheduler, self.launcher, lost_after=settings.container_lost_seconds)
        self._cleanup.push_async_callback(self.heartbeats.close)
        self.metrics.registry.register(Present(self.scheduler.runners, self.apps))
        self.engine.on_release = self.scheduler.resources_released
        self.history = History(database=database, functions=self.functions, scheduler=self.scheduler)
        self.image_storage = ImageStorage(
            database=database,
            builds=self.node.builds,
            images=self.images,
            apps=self.apps,
            functions=self.functions,
            scheduler=self.scheduler,
            snapshots=self.snapshots,
            wire=self.wire,
        )
        self.traffic = Traffic(database=database, functions=self.functions, apps=self.apps)

    def _calls(self) -> None:
        settings = self.settings
        limits = Limits(settings.max_pending_inputs, settings.max_inputs, settings.max_pending_spawned)
        self.calls = Calls(self.database, self.scheduler, self.wire, limits)
        web_history = WebHistory(self.database)
        self._cleanup.push_async_callback(web_history.close)  # after that of the calls, which may end some requests
        self._cleanup.push_async_callback(self.calls.close)
        self.images.function_builds = FunctionBuilds(
            functions=self.functions,
            calls=self.calls,
            scheduler=self.scheduler,
            logs=self.logs,
            endings=AsgiWire(self.blobs),
        )
        self.schedules = Schedules(
            apps=self.apps,
            functions=self.functions,
            calls=self.calls,
            logs=self.logs,
            wire=self.wire,
            catch_up=min(settings.schedule_catch_up_hours / 24, settings.result_days) * 86_400,
        )
        self._cleanup.push_async_callback(self.schedules.close)
        self.ownership = Ownership(
            environments=self.environments,
            apps=self.apps,
            functions=self.functions,
            calls=self.calls,
            objects={
                "dict_id": lambda id: self.dicts.objects.get(id).environment_id,
                "queue_id": lambda id: self.queues.objects.get(id).environment_id,
                "secret_id": lambda id: self.secrets.get(id).environment_id,
                "shared_volume_id": lambda id: self.network_files.objects.get(id).environment_id,
                "volume_id": lambda id: self.volumes.get(id).environment_id,
            },
        )
        self.web_calls = WebCalls(self.calls, self.scheduler, AsgiWire(self.blobs), web_history)
        self.server_requests = ServerRequests(self.database)
        self._cleanup.push_async_callback(self.server_requests.close)
        self.servers = Servers(
            self.scheduler, key=load_or_create_key(self.data.signing_key), max_pending=settings.max_pending_inputs
        )

    def do_chores(self) -> None:
        """Begins what is to be done now and then, when all that the last server knew is known again."""
        days = self.settings.result_days
        chores = (
            self.environments.catch_up,
            self.volumes.sweep,
            self.network_files.sweep,
            self.dicts.sweep,
            self.queues.sweep,
            self.tokens.save_uses,
            partial(self.server_requests.forget_old, days),
        )
        rare = (
            self.blobs.sweep,
            self.volume_files.sweep,
            self.snapshots.sweep,
            self.snapshot_checks.chore,
            self.layer_checks.chore,
            partial(forget_old_calls, self.database, self.blobs, days),
            partial(forget_old_logs, self.database, days),
            partial(forget_old_tasks, self.database, lambda: [task.id for task in self.scheduler.tasks()], days),
        )
        self._cleanup.push_async_callback(Housekeeping(chores, rare).close)

    def _may_have_snapshots(self, app_id: str) -> bool:
        settings = self.settings
        return settings.memory_snapshots and (settings.snapshot_ephemeral or self.apps.get(app_id).state == DEPLOYED)
