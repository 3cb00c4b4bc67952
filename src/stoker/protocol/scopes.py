"""The scopes of containers' requests: each answers whether what a request names is the container's to use.

Ids are long and random, so whoever has the id of a dict, a queue, a volume or a function was given it, and may use it. The scopes are about
what needs no id (names, lists), about what hurts others (ending, deleting), and about what is meant for one container.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import Message
from modal_proto import api_pb2

from stoker.errors import InvalidArgument, PermissionDenied
from stoker.ids import is_id
from stoker.protocol.values import at_most
from stoker.rpc.rights import Scope
from stoker.services.access.ownership import Ownership
from stoker.services.calls.call_records import Call
from stoker.services.containers.identity import ContainerIdentity

_MOST_SECRETS, _MOST_BLOBS = 1_000, 10_000  # that one request can name
_LOOKS_UP = api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
_NAMELESS = (
    api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED,
    api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
    api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
)


def _nothing(request: Any, container: ContainerIdentity, ownership: Ownership) -> None: ...


ANYTHING = Scope("yes", _nothing)
"""Whatever the request names. Also for RPCs that are about the calling container alone, and name nothing."""


# Environments


def _at_home(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if not request.environment_name:
        request.environment_name = ownership.home_name(container)


def _own_environment(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    _at_home(request, container, ownership)
    if ownership.environment(request.environment_name) != ownership.home(container):
        raise PermissionDenied(
            f"A container can only do this in its own environment, which is {ownership.home_name(container)!r}."
        )


def _creation(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    _at_home(request, container, ownership)
    if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
        if ownership.environment(request.environment_name) != ownership.home(container):
            request.object_creation_type = _LOOKS_UP  # what is there may be used, what is not is not made
    elif request.object_creation_type != _LOOKS_UP:
        _own_environment(request, container, ownership)


def _no_replacing(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
        raise PermissionDenied("A container cannot replace what exists.")


def _existing_environment(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    name, kind = request.deployment_name, request.object_creation_type
    if not name:
        request.deployment_name = name = ownership.home_name(container)
    is_new = kind != _LOOKS_UP and not ownership.has_environment(name)
    if is_new or kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
        raise PermissionDenied("A container cannot create an environment.")


def _nameless(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if request.object_creation_type not in _NAMELESS:
        raise PermissionDenied("A container cannot give a name to a mount: all apps of the server find mounts by name.")


ANY_ENVIRONMENT = Scope("yes", _at_home, ("environment_name",))
"""What is looked up by a name, in whichever environment; in the container's own when it names none."""

OWN_ENVIRONMENT = Scope("its environment", _own_environment, ("environment_name",))

CREATED_AT_HOME = Scope(
    "looks up anywhere, creates in its environment", _creation, ("environment_name", "object_creation_type")
)

NEW_AT_HOME = OWN_ENVIRONMENT & Scope("replaces nothing", _no_replacing, ("object_creation_type",))

EXISTING_ENVIRONMENT = Scope("existing ones", _existing_environment, ("deployment_name", "object_creation_type"))

NAMELESS = Scope("without a name", _nameless, ("object_creation_type",))


def of_own_environment(field: str) -> Scope:
    """An object of the container's environment, named by its id in `field`."""

    def check(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
        if ownership.environment_of(field, getattr(request, field)) != ownership.home(container):
            raise PermissionDenied(
                f"A container can only do this to what is in its own environment, which is {ownership.home_name(container)!r}."
            )

    return Scope("of its environment", check, (field,))


def _own_secrets(secret_ids: Sequence[str], container: ContainerIdentity, ownership: Ownership) -> None:
    for secret_id in dict.fromkeys(at_most(secret_ids, _MOST_SECRETS, "secrets")):
        if ownership.environment_of("secret_id", secret_id) != ownership.home(container):
            raise PermissionDenied("A container can only use secrets of its own environment.")


def _image(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if request.build_function_id or request.image.HasField("build_function"):
        raise PermissionDenied("A container cannot run a function while an image is built.")
    login = request.image.image_registry_config.secret_id
    _own_secrets([*request.image.secret_ids, *([login] if login else [])], container, ownership)


def _secrets_of_options(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    options = request.function_options
    buckets = [b.credentials_secret_id for b in options.cloud_bucket_mounts if b.credentials_secret_id]
    _own_secrets([*options.secret_ids, *buckets], container, ownership)


IMAGE_WITH_OWN_SECRETS = Scope("with secrets of its environment", _image, ("image", "build_function_id"))
OPTIONS_WITH_OWN_SECRETS = Scope("with secrets of its environment", _secrets_of_options, ("function_options",))


# Apps and functions


def _own_app(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if request.app_id != container.app_id:
        if request.app_id:
            ownership.environment_of_app(request.app_id)
        raise PermissionDenied("A container can only do this with its own app.")


def _own_log(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if not is_id(request.app_id, "im"):
        _own_app(request, container, ownership)
    elif request.app_id not in container.told:
        raise PermissionDenied("A container can only read build logs of images that it asked for.")


OWN_APP = Scope("its app", _own_app, ("app_id",))

OWN_LOG = Scope("its app, images it asked for", _own_log, ("app_id",))


def _function_at_home(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    app_id = ownership.app_of_function(request.function_id)
    if ownership.environment_of_app(app_id) != ownership.home(container):
        raise PermissionDenied("A container can only do this with functions of its own environment.")


def _function_of_own_app(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if ownership.app_of_function(request.function_id) != container.app_id:
        raise PermissionDenied("A container can only do this with functions of its own app.")


def _own_function(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if request.function_id not in ("", container.function_id):
        raise PermissionDenied("A container can only ask for its own function.")


FUNCTION_OF_OWN_ENVIRONMENT = Scope("of its environment", _function_at_home, ("function_id",))

FUNCTION_OF_OWN_APP = Scope("of its app", _function_of_own_app, ("function_id",))

OWN_FUNCTION = Scope("its function", _own_function, ("function_id",))


def _own_task(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if request.task_id != container.task_id:
        raise PermissionDenied("A container can only stop itself.")


OWN_TASK = Scope("itself", _own_task, ("task_id",))


# Calls


def _belongs(call: Call, container: ContainerIdentity) -> bool:
    return container.app_id in (call.app_id, call.caller_app_id)


def _own_call(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if not _belongs(ownership.call(request.function_call_id), container):
        raise PermissionDenied(
            "This call belongs to another app: this container's app neither has its function nor made the call."
        )


def _made_call(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if ownership.call(request.function_call_id).caller_app_id != container.app_id:
        raise PermissionDenied("Only the app that made this call can add inputs to it.")


def _near_call(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    call = ownership.call(request.function_call_id)
    if not _belongs(call, container) and ownership.environment_of_app(call.app_id) != ownership.home(container):
        raise PermissionDenied("This call belongs to another environment, and this container's app did not make it.")


def _running_call(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    call = ownership.call(request.function_call_id)
    if call.open_inputs and not ownership.runs(container, call.open_inputs.keys()):
        raise PermissionDenied("This container does not run that call.")


OWN_CALL = Scope("calls of its functions, or made by its app", _own_call, ("function_call_id",))

MADE_CALL = Scope("calls made by its app", _made_call, ("function_call_id",))

NEAR_CALL = Scope("calls in its environment, or made by its app", _near_call, ("function_call_id",))

RUNNING_CALL = Scope("calls it runs", _running_call, ("function_call_id",))


def _parent(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    """The parent of a call is the input that made it. Another one would show the call to its own caller, and count as waiting for it."""
    if request.parent_input_id and not ownership.runs(container, [request.parent_input_id]):
        request.parent_input_id = ""


TRUE_PARENT = Scope("yes", _parent, ("parent_input_id",))


# What the container was told


def known_blobs(*path: str, words: str = "yes") -> Scope:
    """Every blob that a request names is one that the container made, or that the server named to it, with an input or a result. With others it
    could read them, take them for inputs, or have them deleted as used up. path: of fields to the ids."""

    def check(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
        for number, blob_id in enumerate(_values(request, path)):
            if number >= _MOST_BLOBS:
                raise InvalidArgument(f"One request can name {_MOST_BLOBS} blobs at most.")
            if blob_id and blob_id not in container.told:
                raise PermissionDenied("A container can only name blobs that it made or was told of.")

    return Scope(words, check, path[:1])


def _values(message: Any, path: tuple[str, ...]) -> Iterator[Any]:
    value, rest = getattr(message, path[0]), path[1:]
    if not rest:
        yield value
    elif isinstance(value, Message):
        yield from _values(value, rest)
    else:
        for item in value:
            yield from _values(item, rest)


def _asked_image(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if request.image_id not in container.told:
        raise PermissionDenied("A container can only follow builds of images that it asked for.")


ASKED_IMAGE = Scope("images it asked for", _asked_image, ("image_id",))


# Volumes


def _mounted(request: Any, container: ContainerIdentity, ownership: Ownership) -> None:
    if request.volume_id not in container.volume_ids:
        raise PermissionDenied(
            "A function with restrict_modal_access=True can only use volumes that are mounted in it."
        )


MOUNTED_VOLUME = Scope("mounted volumes", _mounted, ("volume_id",))
