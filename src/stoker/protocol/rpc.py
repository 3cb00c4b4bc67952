"""How a method of the Modal wire is declared: a servicer is a plain class whose methods carry `@rpc(NAME)`.

The transport (`transport.py`) and the compatibility table are both made from these declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from modal_proto import api_pb2

from stoker.protocol import finite
from stoker.protocol.rights import Rights, Scope
from stoker.services.endpoints import Audience
from stoker.services.identity import ContainerIdentity

SERVICE = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]

F = TypeVar("F", bound=Callable[..., Any])


class Caller(NamedTuple):
    """Who calls: a client known by its token, or the container behind one unix socket."""

    container: ContainerIdentity | None = None
    """None for a client."""
    inside: bool = False
    """Whether the call comes from inside a container, also that of a client there: HTTP URLs handed to it must be reachable from there."""
    client_type: str = ""
    """A number of api_pb2.ClientType, as the caller names it."""
    client_version: str = ""
    token_id: str = ""
    idempotency_key: str = ""
    repeats: bool = False
    """Whether the caller says that it sent this request before."""
    host: str = ""
    """The host name or address by which the caller reached the server, "" when unknown; HTTP URLs handed to it must use a host it can reach."""

    @property
    def task_id(self) -> str:
        """Of the calling container, "" for a client."""
        return self.container.task_id if self.container is not None else ""

    @property
    def audience(self) -> Audience:
        return "container" if self.inside else "client"

    @property
    def name(self) -> str:
        """What sets it apart from all other callers."""
        return self.task_id or self.token_id

    def tell(self, object_id: str) -> None:
        """Notes that the answer names a blob or an image to the caller, who may use it from now on."""
        if self.container is not None and object_id:
            self.container.told.add(object_id)


@dataclass(frozen=True)
class Declaration:
    """What `@rpc` says of a method; see there."""

    name: str
    once: bool
    waits: bool
    rights: Rights


@dataclass(frozen=True)
class Method:
    """One implemented RPC. `handler(request, caller)` is a coroutine function, or an async generator for server streams."""

    name: str
    handler: Callable[[Any, Caller], Any]
    request_type: type[Any]
    numbers: finite.Check | None
    """Raises InvalidArgument for a request with a number that is not finite; None for requests without such fields."""
    streams: bool
    once: bool
    waits: bool
    rights: Rights


def rpc(
    name: str,
    *,
    once: bool = False,
    open: bool = False,
    clients: bool = True,
    containers: Scope | None = None,
    restricted: Scope | None = None,
    waits: bool = False,
) -> Callable[[F], F]:
    """Declares that the decorated method implements the RPC `name`.

    once: a repeat with the same idempotency key gets the first answer again and changes nothing.
    open: may be called without a token.
    clients: False when only containers may call it.
    containers: what code inside a container may ask for; None for nothing.
    restricted: the same for containers of functions with restrict_modal_access=True.
    waits: the call mostly waits (a long poll) and is given up when its caller goes away. Every other call runs to its end: what it
        changes must not be left half done.
    """
    if name not in SERVICE.methods_by_name:
        raise ValueError(f"{name} is not an RPC of {SERVICE.full_name}")
    known = SERVICE.methods_by_name[name].input_type.fields_by_name
    for scope in filter(None, (containers, restricted)):
        if unknown := set(scope.fields) - set(known):
            raise ValueError(f"The request of {name} has no field {', '.join(sorted(unknown))}")

    def declare(function: F) -> F:
        declared = Declaration(name, once, waits, Rights(open, clients, containers, restricted))
        function._rpc = declared  # type: ignore[attr-defined]
        return function

    return declare


def declared_by(servicer: type) -> dict[str, tuple[str, Declaration]]:
    """RPC name -> (attribute, declaration) of what a servicer class declares."""
    found = {}
    for attribute in dir(servicer):
        declared = getattr(getattr(servicer, attribute, None), "_rpc", None)
        if isinstance(declared, Declaration):
            found[declared.name] = (attribute, declared)
    return found


def methods_of(servicers: Iterable[object]) -> dict[str, Method]:
    """All RPCs that `servicers` implement, by name."""
    methods: dict[str, Method] = {}
    for servicer in servicers:
        for name, (attribute, declared) in declared_by(type(servicer)).items():
            if name in methods:
                raise ValueError(f"{name} is implemented twice")
            descriptor = SERVICE.methods_by_name[name]
            methods[name] = Method(
                name=name,
                handler=getattr(servicer, attribute),
                request_type=message_class(descriptor.input_type.full_name),
                numbers=finite.check_of(descriptor.input_type),
                streams=descriptor.server_streaming,
                once=declared.once,
                waits=declared.waits,
                rights=declared.rights,
            )
    return methods


def message_class(full_name: str) -> type[Any]:
    """The generated class of a message."""
    from google.protobuf import message_factory
    from google.protobuf.descriptor_pool import Default

    message: type[Any] = message_factory.GetMessageClass(Default().FindMessageTypeByName(full_name))
    return message
