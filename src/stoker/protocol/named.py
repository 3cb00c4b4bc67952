"""What the `GetOrCreate` RPCs of dicts, queues and network file systems have in common."""

from __future__ import annotations

from modal_proto import api_pb2

from stoker.errors import InvalidArgument
from stoker.services.named import Named, NamedObjects

_IF_EXISTS = {
    api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING: "keep",
    api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS: "fail",
}
_EPHEMERAL = (
    api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
    api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
)


async def get_or_create(
    objects: NamedObjects, environment_id: str, name: str, kind: api_pb2.ObjectCreationType.ValueType
) -> tuple[Named, bool]:
    """What an object creation type asks for, and whether it is new. Raises NotFound, AlreadyExists or InvalidArgument."""
    if kind in _EPHEMERAL:
        return await objects.create_ephemeral(environment_id), True
    if kind in _IF_EXISTS:
        return await objects.create(environment_id, name, if_exists=_IF_EXISTS[kind])
    if kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
        old = next((o for o in objects.named(environment_id) if o.name == name), None)
        if old is not None:
            await objects.delete(old.id)
        return await objects.create(environment_id, name, if_exists="keep")
    if kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
        return objects.find(environment_id, name), False
    raise InvalidArgument(f"The object creation type {kind} is not known to this server.")
