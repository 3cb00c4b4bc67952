"""What a function is: its definition in versions, and what the server acts on of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from stoker.core.autoscaler import ScalingSettings
from stoker.core.books import PoolSettings
from stoker.core.schedules import Schedule
from stoker.engine.base import ResourceRequest
from stoker.errors import FailedPrecondition
from stoker.nodes.buckets import Kind
from stoker.nodes.endings import Limits
from stoker.nodes.messages import VolumeUse


@dataclass(frozen=True)
class BucketUse:
    """A bucket as stoker.nodes.buckets describes it, but for its credentials, which `secret_id` has ("" for none)."""

    name: str
    mount_path: str
    kind: Kind
    endpoint: str = ""
    prefix: str = ""
    read_only: bool = False
    requester_pays: bool = False
    path_style: bool = False
    secret_id: str = ""


@dataclass(frozen=True)
class WebSpec:
    """A function, or a method of a class, that answers HTTP."""

    name: str  # as the user sees it: "generate", "Model.generate"
    method: str = ""  # of a class, "" for a function
    label: str = ""  # asked for by the user
    dev_suffix: str = "dev"  # for apps that live with their client
    proxies: bool = False  # web_server: the app in the container knows nothing of a path in front of its own
    needs_token: bool = False
    domains: tuple[str, ...] = ()  # asked for by the user, in lower case


@dataclass(frozen=True)
class ServerSpec:
    """A container that serves HTTP itself. Times in seconds."""

    name: str
    port: int
    exit_grace: float = 0.0
    max_concurrency: int = 0  # 0: no limit
    needs_token: bool = True
    sessioned: bool = False  # requests belong to sessions, each of which stays with one container


@dataclass(frozen=True)
class FunctionSpec:
    """What the server acts on; everything else in a definition is between the client and its container."""

    image_id: str
    mount_ids: tuple[str, ...] = ()
    secret_ids: tuple[str, ...] = ()
    volumes: tuple[VolumeUse, ...] = ()
    buckets: tuple[BucketUse, ...] = ()
    resources: ResourceRequest = field(default_factory=ResourceRequest)
    limits: Limits = field(default_factory=Limits)
    pool: PoolSettings = field(default_factory=PoolSettings)
    scaling: ScalingSettings = field(default_factory=ScalingSettings)
    startup_timeout: float = 300.0
    network: bool = True
    restricted: bool = False  # its containers may ask the server for nothing but what running their inputs takes
    memory_snapshot: bool = False
    gpu_snapshot: bool = False  # with the memory of its GPUs
    schedule: Schedule | None = None
    web: tuple[WebSpec, ...] = ()
    server: ServerSpec | None = None
    builds_image: bool = False  # its files become a layer (Image.run_function)
    unsupported: str = ""
    """A sentence when the function asks for something this server does not offer. Such a definition is refused; the calls of one that was
    stored before it was refused fail with the sentence."""


@dataclass(frozen=True)
class Definition:
    """What a function was declared to be, once. `content` is the client's message; `spec` is what it means to the server."""

    id: str
    content: bytes
    spec: FunctionSpec
    client_version: str


@dataclass
class Function:
    """One function of an app, over all of its definitions. `staged` becomes `current` when the app is published."""

    id: str
    app_id: str
    name: str
    current: Definition | None = None
    staged: Definition | None = None
    base_id: str = ""  # for a function with bound parameters: the function it comes from
    binding: bytes = b""
    precreated: bytes = b""
    twin_of: str = ""  # for a canary: the function whose inputs it takes a part of
    scaling_override: ScalingSettings | None = None  # set live by update_autoscaler, until the next deployment

    @property
    def latest(self) -> Definition | None:
        return self.staged or self.current

    @property
    def active(self) -> Definition:
        """The definition that runs. Raises FailedPrecondition before there is one."""
        definition = self.current or self.staged
        if definition is None:
            raise FailedPrecondition(f"The function {self.name!r} has no definition yet; run or deploy its app again.")
        return definition

    @property
    def scaling(self) -> ScalingSettings:
        return self.scaling_override or self.active.spec.scaling
