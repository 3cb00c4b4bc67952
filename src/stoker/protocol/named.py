"""What all `GetOrCreate` RPCs have in common: the request says by an object creation type whether to find or to make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from modal_proto import api_pb2

from stoker.errors import InvalidArgument
from stoker.services.environments.named import Named, NamedObjects

T = TypeVar("T")
_IF_EXISTS = {
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING: "keep",
    api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS: "fail",
    api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS: "replace",
}
_WITHOUT_NAME = (
    api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
    api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
)


async def by_creation_type(
    kind: api_pb2.ObjectCreationType.ValueType,
    *,
    find: Callable[[], T],
    create: Callable[[str], Awaitable[T]],
    create_nameless: Callable[[], Awaitable[T]],
) -> T:
    """What `kind` asks for. create: called with "keep", "fail" or "replace", for when the name is taken. Raises InvalidArgument, and what
    these raise."""
    if kind in _WITHOUT_NAME:
        return await create_nameless()
    if kind in _IF_EXISTS:
        return await create(_IF_EXISTS[kind])
    if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
        return find()
    raise InvalidArgument(f"The object creation type {kind} is not known to this server.")


async def get_or_create(
    objects: NamedObjects, environment_id: str, name: str, kind: api_pb2.ObjectCreationType.ValueType
) -> tuple[Named, bool]:
    """An object of those kept by name alone, and whether it is new. Raises NotFound, AlreadyExists or InvalidArgument."""

    async def create(if_exists: str) -> tuple[Named, bool]:
        return await objects.create(environment_id, name, if_exists=if_exists)

    async def create_nameless() -> tuple[Named, bool]:
        return await objects.create_ephemeral(environment_id), True

    return await by_creation_type(
        kind, find=lambda: (objects.find(environment_id, name), False), create=create, create_nameless=create_nameless
    )
