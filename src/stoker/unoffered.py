"""What Modal offers and this server does not: each feature in the words of who asks for it, and what to use instead.

The wire refuses by this table, `stoker check` finds these features in code before anything is built, and docs/compatibility.md shows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """`title` ends the sentence "This server does not offer ..."; `instead` is a sentence of its own.

    rpcs: a pattern of the RPCs by which a client asks for it. names: what of the client stands for it in code, as dotted names.
    options: arguments that ask for it when they are true. cloud: it only makes sense in Modal's own cloud.
    """

    title: str
    instead: str
    rpcs: str = ""
    names: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    cloud: bool = False

    @property
    def refusal(self) -> str:
        return f"This server does not offer {self.title}."

    @property
    def sentence(self) -> str:
        return f"{self.refusal} {self.instead}"


CLUSTERS = Feature(
    "clusters of containers (@modal.clustered)",
    'Ask for several GPUs in one container instead, such as gpu="H100:8".',
    rpcs="Cluster.*|TaskClusterHello",
    names=(
        "modal.clustered",
        "modal.Cluster",
        "modal.experimental.clustered",
        "modal.experimental.get_cluster_info",
        "modal.experimental.get_fabric_peers",
        "modal.experimental.list_cluster_reservations",
    ),
)
HTTP_SERVER = Feature(
    "modal.experimental.http_server and flash_forward",
    "Use @app.server(port=...) on the class, which takes exit_grace_period and the other options as well.",
    rpcs="FlashContainer(Register|Deregister)|FlashSetTargetSlotsMetrics",
    names=("modal.experimental.http_server", "modal.experimental.flash_forward"),
)
HTTP2 = Feature(
    "HTTP/2 to the containers of @app.server",
    "Leave out h2_enabled=True: they are reached over HTTP/1.1.",
    options=("h2_enabled",),
)
SERVERS_WITHOUT_CODE = Feature(
    "servers without code (`modal server deploy`)",
    "Write an @app.server class whose @modal.enter() method starts the program with subprocess.Popen.",
)
PRIVATE_NETWORK = Feature(
    "private addresses of containers (i6pn=True)",
    "Leave i6pn out, and let containers talk through a modal.Queue, a modal.Dict or the URL of an @app.server.",
    options=("i6pn",),
)
CLOUD_IDENTITY = Feature(
    "an identity that Amazon could trust (oidc_auth_role_arn)",
    "Give the CloudBucketMount a secret with keys.",
    options=("oidc_auth_role_arn",),
)

FEATURES: tuple[Feature, ...] = (
    Feature(
        "sandboxes (modal.Sandbox, and `modal shell`, which starts one)",
        "Run the program with subprocess in a function; with single_use_containers=True each call has a container of its own.",
        rpcs="Sandbox.*|PersistentSandbox.*|ContainerReloadVolumes",
        names=("modal.Sandbox", "modal.SandboxSnapshot", "modal.Probe"),
    ),
    Feature(
        "commands in running containers (`modal shell`, `modal container exec`)",
        "Print what you want to see, and read it with `modal container logs`.",
        rpcs="ContainerExec.*|ContainerFilesystemExec|TaskGetCommandRouterAccess",
    ),
    Feature(
        "prompts from inside a container (modal.interact(), breakpoint())",
        "Call the function on your own machine with .local(), or print what you want to see.",
        rpcs="FunctionStartPtyShell",
        names=("modal.interact",),
    ),
    Feature(
        "tunnels (modal.forward)",
        "Use @modal.web_server(PORT) or @app.server(port=PORT): both give what listens on that port a URL.",
        rpcs="Tunnel.*",
        names=("modal.forward", "modal.Tunnel"),
    ),
    CLUSTERS,
    HTTP_SERVER,
    HTTP2,
    SERVERS_WITHOUT_CODE,
    PRIVATE_NETWORK,
    CLOUD_IDENTITY,
    Feature(
        "proxies with static addresses (modal.Proxy)",
        "Leave out proxy=...: containers reach the internet from the server's own address.",
        rpcs="Proxy.*",
        names=("modal.Proxy",),
        cloud=True,
    ),
    Feature(
        "modal.experimental.Stream, which is a service of Modal's own cloud",
        "Use a modal.Queue, or a generator function with .remote_gen().",
        names=("modal.experimental.Stream", "modal.experimental.stream"),
        cloud=True,
    ),
    Feature(
        "time series of a function or server (`modal function metrics`, `modal server metrics`)",
        "The server has metrics in Prometheus' format at /metrics, and `modal function stats` and `modal server stats` count calls and requests.",
        rpcs="FunctionGetMetrics|ServerGetMetrics|MetricsGetInfo",
    ),
    Feature(
        "tokens of `modal curl`",
        "Use curl with the headers Modal-Key and Modal-Secret of a proxy token, which `modal workspace proxy-tokens create` makes.",
        rpcs="CurlGetAuthToken",
    ),
    Feature(
        "advice on mistyped commands",
        "`modal --help` lists the commands.",
        rpcs="CliCommandSuggest",
    ),
    Feature(
        "billing (modal.billing, `modal billing`)",
        "Nothing is billed here; `stoker tune` with --price says what calls cost on a machine of yours.",
        rpcs="WorkspaceBilling.*|EnvironmentBilling.*",
        names=("modal.billing",),
        cloud=True,
    ),
    Feature(
        "roles (`modal environment roles`, `modal environment members`)",
        "Every token may do everything; give people who must be kept apart servers of their own.",
        rpcs="EnvironmentGetRoles|EnvironmentRoleSet|EnvironmentSetDefaultMemberRole|UserGroupEnvironmentSet",
        cloud=True,
    ),
    Feature(
        "service users (`modal workspace service-users`)",
        "Make a token for the program: `stoker token new --name NAME`.",
        rpcs="ServiceUser.*",
        cloud=True,
    ),
    Feature(
        "audit logs",
        "Each web request, and what fails, is a line of logs/server.log in the server's data directory.",
        rpcs="AuditLog.*",
        cloud=True,
    ),
    Feature(
        "Modal's ready-made endpoints (`modal endpoint`)",
        "Deploy an app of your own; `stoker new --list` shows apps to start from.",
        rpcs="Endpoint.*",
        cloud=True,
    ),
    Feature(
        "app templates",
        "`stoker new --list` shows apps to start from.",
        rpcs="TemplateList",
        cloud=True,
    ),
    Feature(
        "the registration of domains",
        "Name the domain in custom_domains=[...] of the endpoint and in the server's setting custom_domains.",
        rpcs="Domain.*",
        cloud=True,
    ),
    Feature(
        "budgets and managed environments",
        "Limit a function with max_containers.",
        rpcs="Environment(Get|Set)(Budget|Managed)|WorkspaceSetDefaultEnvironmentSettings",
        cloud=True,
    ),
    Feature(
        "the second data plane of Modal's own cloud",
        "Look the function up again with this server's URL and token.",
        rpcs="Attempt.*|Map(Await|CheckInputs|StartOrContinue)",
        cloud=True,
    ),
    Feature(
        "what clients before 1.2 asked for",
        "Update the client: `pip install --upgrade modal`.",
        rpcs="AppDeploy|AppLookup|App(Get|Set)Objects|ContainerLog|FunctionAsyncInvoke|FunctionBlobGet|FunctionCallList|"
        "FunctionGetSerialized|TaskCurrentInputs|VolumeGetFile",
    ),
)


def of_rpc(name: str) -> Feature | None:
    """The feature that an RPC belongs to."""
    return next((feature for feature in FEATURES if feature.rpcs and re.fullmatch(feature.rpcs, name)), None)


def refusal(rpc: str) -> str:
    """What a client is told that calls an RPC which this server does not have."""
    feature = of_rpc(rpc)
    if feature is not None:
        return feature.sentence
    return (
        f"This server does not offer what the client asked for ({rpc}): it may be newer than the server. Update Stoker, or "
        "look into docs/compatibility.md for what this one offers."
    )
