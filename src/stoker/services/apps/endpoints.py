"""Web addresses: which label, and so which URL, belongs to which function; and which function a URL means.

A label is made from names alone, so it survives redeployments and restarts. It is the first part of a host name
(`<label>.localhost:7691`), and works as a path on any host name too (`/w/<label>/`), which needs no DNS. A deployed function may have
domains of its own besides, of those that the server may serve.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

import structlog

from stoker.errors import AlreadyExists, InvalidArgument, NotFound
from stoker.quoting import shown
from stoker.services.apps.apps import DETACHED, DETACHED_DISCONNECTED, EPHEMERAL, App, Apps
from stoker.services.environments.environments import Environments, slug
from stoker.services.functions.functions import Functions
from stoker.services.functions.spec import FunctionSpec, ServerSpec, WebSpec

PATH_PREFIX = "/w/"
_LOCAL_DOMAIN = "localhost"
_LONGEST_LABEL = 63  # of a part of a host name (RFC 1035)
_LIVES_WITH_CLIENT = (EPHEMERAL, DETACHED, DETACHED_DISCONNECTED)
_log = structlog.get_logger(__name__)

Audience = Literal["client", "container"]
"""Who reads a URL. Sandboxes have a network of their own, where `localhost` is themselves."""


def is_local(host: str) -> bool:
    """Whether this host of a URL leads nobody but programs on this machine to this machine: a loopback address, or a name for one. So does,
    to sandboxes, any address of IPv6, which they have not. Asks no name server."""
    name = host.rstrip(".").lower()
    if name == _LOCAL_DOMAIN or name.endswith(f".{_LOCAL_DOMAIN}"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.version == 6 or address.is_loopback


def domain_for(host: str, setting: str) -> str:
    """The domain of URLs for the setting `web_domain`, "" for URLs with a path. May ask a name server."""
    if setting != "auto":
        return setting.strip(".").lower()
    if host not in ("127.0.0.1", "::1", _LOCAL_DOMAIN):
        return ""
    try:
        socket.getaddrinfo(f"any.{_LOCAL_DOMAIN}", None)
    except OSError:
        return ""
    return _LOCAL_DOMAIN


@dataclass(frozen=True)
class Endpoint:
    """What answers under a label."""

    label: str
    app_id: str
    function_id: str
    target: WebSpec | ServerSpec


@dataclass(frozen=True)
class Place:
    """An endpoint found for a request. prefix: the part of the path that only served to find it, "" when the host name did."""

    endpoint: Endpoint
    prefix: str = ""


class Endpoints:
    """The route table, made from the published functions of all apps."""

    def __init__(
        self,
        *,
        workspace: str,
        host: str,
        port: int,
        domain: str,
        apps: Apps,
        functions: Functions,
        environments: Environments,
        secure: bool = False,
        custom_domains: Sequence[str] = (),
        container_base: str = "",
    ) -> None:
        """host, port: of the gateway; secure: that is the port for TLS. domain: for URLs of the form `<label>.<domain>`; "" makes URLs with a path.
        custom_domains: those that functions may have as their own, `*.` in front for all below. container_base: "http://host:port" of the
        gateway as containers see it; "" when they share the host's network."""
        self._workspace = workspace
        self._scheme = "https" if secure else "http"
        self._port = "" if port == (443 if secure else 80) else f":{port}"
        self._base = f"{self._scheme}://{f'[{host}]' if ':' in host else host}{self._port}"
        self._host = host
        self._domain = domain
        self._container_base = container_base
        self._custom_domains = [pattern.lower().rstrip(".") for pattern in custom_domains]
        self._apps = apps
        self._functions = functions
        self._environments = environments
        self.is_servers_own: Callable[[str], bool] = lambda path: False
        """Whether a path is the server's own whatever the host name."""
        self._by_name: dict[str, list[Endpoint]] = {}  # by label and by domain; the last one answers

    def url(self, app_id: str, target: WebSpec | ServerSpec, audience: Audience = "client") -> str:
        """The URL of an endpoint, with no slash at its end. A container gets one that it reaches; but where the server has a name or an
        address for everybody, it gets the same as everybody, for it may hand the URL on."""
        label = self._label(self._apps.get(app_id), target)
        if audience == "container" and self._container_base and is_local(self._domain or self._host):
            return f"{self._container_base}{PATH_PREFIX}{label}"
        if self._domain:
            return f"{self._scheme}://{label}.{self._domain}{self._port}"
        return f"{self._base}{PATH_PREFIX}{label}"

    def domain_urls(self, app_id: str, target: WebSpec, audience: Audience = "client") -> list[str]:
        """The URLs of an endpoint on domains of its own, which only deployed apps have. A container gets those that it reaches."""
        if self._apps.get(app_id).state in _LIVES_WITH_CLIENT:
            return []
        inside = audience == "container" and self._container_base
        domains = [domain for domain in target.domains if not (inside and is_local(domain))]
        return [f"{self._scheme}://{domain}{self._port}" for domain in domains]

    def check(self, app_id: str, wanted: Sequence[WebSpec | ServerSpec]) -> None:
        """Raises AlreadyExists when a label or a domain of what a function is to answer belongs to another deployed app, and
        InvalidArgument for a domain that this server may not serve."""
        app = self._apps.get(app_id)
        if app.state in _LIVES_WITH_CLIENT:
            return  # of two that run at the same time the newer one answers
        for target in wanted:
            label = self._label(app, target)
            self._check_free(app, label, f"The web label {label!r} of {target.name}", "with label=...")
            for domain in _domains(target):
                self._check_domain(target.name, domain)
                self._check_free(app, domain, f"The domain {domain!r} of {target.name}", "in custom_domains")

    def publish(self, app: App) -> None:
        """Event: the functions of an app are the ones it names now."""
        self.forget(app.id)
        for function_id in dict.fromkeys(app.function_ids.values()):
            try:
                function = self._functions.get(function_id)
            except NotFound:
                continue
            if function.current is None:
                continue
            for target in targets(function.current.spec):
                endpoint = Endpoint(self._label(app, target), app.id, function_id, target)
                domains = () if app.state in _LIVES_WITH_CLIENT else _domains(target)
                for name in (endpoint.label, *domains):
                    owners = self._by_name.setdefault(name, [])
                    if owners:
                        _log.warning("web label taken over", label=name, app=app.id, from_app=owners[-1].app_id)
                    owners.append(endpoint)

    def forget(self, app_id: str) -> None:
        """Event: an app is over."""
        for label, owners in list(self._by_name.items()):
            owners[:] = [e for e in owners if e.app_id != app_id]
            if not owners:
                del self._by_name[label]

    def locate(self, host: str, path: str) -> Place | None:
        """Whose a request is; None when it is for the server itself. Raises NotFound for a label nobody has."""
        if self.is_servers_own(path):
            return None
        name = host.partition(":")[0].lower().rstrip(".")
        label, _, domain = name.partition(".")
        if domain and name in self._by_name:
            return Place(self._by_name[name][-1])
        if label and domain and domain in (_LOCAL_DOMAIN, self._domain):
            return Place(self._find(label))
        if path.startswith(PATH_PREFIX):
            label = path[len(PATH_PREFIX) :].partition("/")[0]
            return Place(self._find(label.lower()), PATH_PREFIX + label)
        return None

    def _check_free(self, app: App, name: str, what: str, where: str) -> None:
        for owner in self._by_name.get(name, ()):
            other = self._apps.get(owner.app_id)
            if other.state not in _LIVES_WITH_CLIENT and not _same(app, other):
                raise AlreadyExists(
                    f"{what} belongs to {owner.target.name} of the deployed app {other.name!r}. "
                    f"Choose another {where}, or stop that app with `modal app stop`."
                )

    def _check_domain(self, name: str, domain: str) -> None:
        first, _, parent = domain.partition(".")
        if "--" in first and parent in (_LOCAL_DOMAIN, self._domain):  # it may be another app's, now or later
            raise InvalidArgument(
                f"The domain {domain!r} of {name} is of the kind that this server makes from labels. Choose another in custom_domains."
            )
        patterns = self._custom_domains
        below = {pattern[1:] for pattern in patterns if pattern.startswith("*.")}
        if domain not in patterns and not any(domain.endswith(suffix) for suffix in below):
            raise InvalidArgument(
                f"The domain {domain!r} of {name} is not among those that this server may serve "
                f"({', '.join(patterns) or 'none'}). Add it to the server's setting custom_domains and point its DNS record at the server."
            )

    def _find(self, label: str) -> Endpoint:
        owners = self._by_name.get(label)
        if not owners:
            raise NotFound(
                f"No running app has the web label {shown(label)}. `modal app list` shows which apps run; `modal deploy` prints their URLs."
            )
        return owners[-1]

    def _label(self, app: App, target: WebSpec | ServerSpec) -> str:
        environment = self._environments.get(app.environment_id)
        wanted = target.label if isinstance(target, WebSpec) else ""
        dev_suffix = target.dev_suffix if isinstance(target, WebSpec) else "dev"
        app_name = app.name or app.description
        owner = "-".join(filter(None, (slug(self._workspace), slug(environment.web_suffix))))
        own = slug(wanted or f"{app_name}-{target.name}")
        label = f"{owner}--{own}" + (f"-{slug(dev_suffix)}" if app.state in _LIVES_WITH_CLIENT else "")
        if len(label) <= _LONGEST_LABEL:
            return label
        digest = hashlib.sha256(label.encode()).hexdigest()[:6]
        return f"{label[: _LONGEST_LABEL - 7].rstrip('-')}-{digest}"


def targets(spec: FunctionSpec) -> list[WebSpec | ServerSpec]:
    """What of a function answers HTTP."""
    return [*spec.web, *([spec.server] if spec.server is not None else [])]


def _domains(target: WebSpec | ServerSpec) -> tuple[str, ...]:
    return target.domains if isinstance(target, WebSpec) else ()


def _same(app: App, other: App) -> bool:
    """Whether one is a deployment of the other."""
    if app.id == other.id:
        return True
    name = app.name or app.description
    return app.environment_id == other.environment_id and name == other.name
