"""The servicers of this server, as classes: what is declared here is what the server offers."""

from __future__ import annotations

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

SERVICERS: tuple[type, ...] = (
    AppServicer,
    FunctionServicer,
    CallServicer,
    ContainerServicer,
    ImageServicer,
    ImageNameServicer,
    WorkspaceServicer,
    BlobServicer,
    MountServicer,
    VolumeServicer,
    NetworkFileServicer,
    SecretServicer,
    EnvironmentServicer,
    ServerServicer,
    DictServicer,
    QueueServicer,
    TokenServicer,
    DeploymentServicer,
    HistoryServicer,
    ServerHistoryServicer,
    SuggestionServicer,
)
