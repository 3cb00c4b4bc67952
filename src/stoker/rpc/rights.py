"""Who may call an RPC, and what of it a container may ask for. Every RPC declares this (`rpc.py`); what it does not declare is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stoker.errors import PermissionDenied
from stoker.services.access.ownership import Ownership
from stoker.services.containers.identity import ContainerIdentity

Check = Callable[[Any, ContainerIdentity, Ownership], None]


@dataclass(frozen=True)
class Scope:
    """The requests of an RPC that a container may make. words: say it in docs/compatibility.md. fields: of the request, which must exist.

    check: called with the request, the container and the ownership of things. Raises PermissionDenied for what is not the container's to ask,
    NotFound for what does not exist; may fill in what the container left out."""

    words: str
    check: Check
    fields: tuple[str, ...] = ()

    def __and__(self, other: Scope) -> Scope:
        """What both allow."""

        def check(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
            self.check(request, container, ownership)
            other.check(request, container, ownership)

        words = [words for words in (self.words, other.words) if words != "yes"]
        return Scope(", ".join(words) or "yes", check, self.fields + other.fields)


@dataclass(frozen=True)
class Rights:
    """open: may be called without a token. clients: may be called by clients. containers, restricted: what containers may ask for, and those of
    functions with restrict_modal_access=True; None for nothing."""

    open: bool = False
    clients: bool = True
    containers: Scope | None = None
    restricted: Scope | None = None

    def admit_client(self, name: str) -> None:
        """Raises PermissionDenied when the RPC `name` is none for clients."""
        if not self.clients:
            raise PermissionDenied(f"Only a container can call {name}.")

    def admit_container(self, name: str, container: ContainerIdentity) -> Scope:
        """What of the RPC `name` a container may ask for. Raises PermissionDenied when that is nothing."""
        scope = self.restricted if container.restricted else self.containers
        if scope is not None:
            return scope
        if container.restricted and self.containers is not None:
            raise PermissionDenied(f"{name} cannot be called from a function with restrict_modal_access=True.")
        raise PermissionDenied(
            f"{name} cannot be called from inside a container. Code that must call it needs a token: put one into a Secret, and make a "
            "client with modal.Client.from_credentials."
        )
