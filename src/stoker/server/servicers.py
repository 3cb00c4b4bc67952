"""The wire on top of the services: one servicer per noun."""

from __future__ import annotations

from stoker.gateway.api.tokens import page_path
from stoker.protocol.app_metadata import AppMetadata
from stoker.protocol.apps import AppServicer
from stoker.protocol.blobs import BlobServicer
from stoker.protocol.calls import CallServicer
from stoker.protocol.containers import ContainerServicer
from stoker.protocol.deployments import DeploymentServicer
from stoker.protocol.dicts import DictServicer
from stoker.protocol.environments import EnvironmentServicer
from stoker.protocol.functions import FunctionServicer
from stoker.protocol.history import HistoryServicer
from stoker.protocol.image_names import ImageNameServicer
from stoker.protocol.images import ImageServicer
from stoker.protocol.mounts import MountServicer
from stoker.protocol.network_files import NetworkFileServicer
from stoker.protocol.queues import QueueServicer
from stoker.protocol.secrets import SecretServicer
from stoker.protocol.server_history import ServerHistoryServicer
from stoker.protocol.servers import ServerServicer
from stoker.protocol.suggestions import SuggestionServicer
from stoker.protocol.tokens import TokenServicer
from stoker.protocol.volumes import VolumeServicer
from stoker.protocol.workspace import WorkspaceServicer
from stoker.server.services import Services
from stoker.services.calls.streams import Streams


def make_call_servicer(services: Services) -> CallServicer:
    return CallServicer(
        calls=services.calls,
        functions=services.functions,
        metadata=services.metadata["client"],
        streams=Streams(on_used=services.blobs.delete_soon),
        blobs=services.blobs,
        web=services.web_calls,
    )


def make_servicers(services: Services, call_servicer: CallServicer, page_url: str) -> list[object]:
    """`page_url` is where the gateway's pages are."""
    s = services
    workspace = s.settings.workspace
    app_metadata = AppMetadata(
        deployments=s.deployments, functions=s.functions, environments=s.environments, user=workspace
    )
    return [
        AppServicer(
            apps=s.apps,
            environments=s.environments,
            images=s.images,
            logs=s.logs,
            metadata=s.metadata,
            app_metadata=app_metadata,
            history=s.history,
            scheduler=s.scheduler,
            page_url=page_url,
        ),
        FunctionServicer(
            functions=s.functions,
            apps=s.apps,
            environments=s.environments,
            metadata=s.metadata,
            endpoints=s.endpoints,
            scheduler=s.scheduler,
            deployments=s.deployments,
            obstacle=s.engine.obstacle,
        ),
        call_servicer,
        ContainerServicer(
            calls=s.calls, scheduler=s.scheduler, checkpoints=s.checkpoints, history=s.history, heartbeats=s.heartbeats
        ),
        ServerServicer(servers=s.servers, functions=s.functions),
        ImageServicer(images=s.images, mounts=s.mounts, secrets=s.secrets),
        ImageNameServicer(names=s.image_names, images=s.images, environments=s.environments),
        WorkspaceServicer(
            workspace=workspace,
            dashboard_url=page_url,
            apps=s.apps,
            environments=s.environments,
            scheduler=s.scheduler,
            tokens=s.tokens,
        ),
        BlobServicer(blobs=s.blobs, network_files=s.network_files, urls=s.urls),
        NetworkFileServicer(files=s.network_files, environments=s.environments),
        MountServicer(mounts=s.mounts),
        VolumeServicer(
            volumes=s.volumes,
            files=s.volume_files,
            environments=s.environments,
            urls=s.urls,
            open_files=s.launcher.open_files,
            user=workspace,
        ),
        SecretServicer(secrets=s.secrets, environments=s.environments, user=workspace),
        EnvironmentServicer(environments=s.environments),
        DictServicer(dicts=s.dicts, environments=s.environments, user=workspace),
        QueueServicer(queues=s.queues, environments=s.environments, user=workspace),
        DeploymentServicer(
            deployments=s.deployments,
            apps=s.apps,
            functions=s.functions,
            metadata=app_metadata,
            user=workspace,
            page_url=lambda app: f"{page_url}/apps/{app.id}",
        ),
        HistoryServicer(
            history=s.history,
            requests=s.server_requests,
            functions=s.functions,
            apps=s.apps,
            deployments=s.deployments,
            metadata=app_metadata,
        ),
        ServerHistoryServicer(requests=s.server_requests, history=s.history, functions=s.functions),
        SuggestionServicer(apps=s.apps, functions=s.functions, environments=s.environments),
        TokenServicer(
            workspace=workspace,
            tokens=s.tokens,
            flows=s.token_flows,
            proxy_tokens=s.proxy_tokens,
            environments=s.environments,
            page_url=lambda page: page_url + page_path(page),
        ),
    ]
