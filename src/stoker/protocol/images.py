"""Images on the wire: one message is one layer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from modal_proto import api_pb2

from stoker.errors import InvalidArgument
from stoker.nodes.builds import AuthKind, ContextRef, FunctionStep, ImageConfig, ImageSpec, RegistryAuth
from stoker.protocol import scopes
from stoker.protocol.pickling import pickled
from stoker.protocol.values import check_entries, cursor
from stoker.rpc.methods import Caller, rpc
from stoker.services.files.mounts import Mounts
from stoker.services.images.images import BUILDING, READY, FunctionRun, Image, Images
from stoker.services.state.secrets import Secrets

_LONGEST_STREAM = 55.0
_INVOCATION = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC
_SUCCESS = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
_FAILURE = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
_AUTH_KINDS: dict[int, AuthKind] = {
    api_pb2.REGISTRY_AUTH_TYPE_STATIC_CREDS: "static",
    api_pb2.REGISTRY_AUTH_TYPE_AWS: "aws",
    api_pb2.REGISTRY_AUTH_TYPE_GCP: "gcp",
}


class ImageServicer:
    def __init__(self, *, images: Images, mounts: Mounts, secrets: Secrets) -> None:
        self._images = images
        self._mounts = mounts
        self._secrets = secrets

    @rpc("ImageGetOrCreate", containers=scopes.IMAGE_WITH_OWN_SECRETS)
    async def get_or_create(
        self, request: api_pb2.ImageGetOrCreateRequest, caller: Caller
    ) -> api_pb2.ImageGetOrCreateResponse:
        check_entries(request)
        wire = request.image
        spec = ImageSpec(
            commands=tuple(wire.dockerfile_commands),
            bases={base.docker_tag: base.image_id for base in wire.base_images},
            context_files={file.filename: file.data for file in wire.context_files},
            context_mount_id=wire.context_mount_id,
            builder_version=request.builder_version,
            build_args=dict(wire.build_args),
            secret_ids=tuple(wire.secret_ids),
            function=_function_step(wire),
        )

        confined = caller.container is not None

        async def make_context(spec: ImageSpec) -> ContextRef:
            auth = None
            kind = _AUTH_KINDS.get(wire.image_registry_config.registry_auth_type)
            if kind and wire.image_registry_config.secret_id:
                auth = RegistryAuth(kind, await self._secrets.values([wire.image_registry_config.secret_id]))
            mount_id = spec.context_mount_id
            standalone = self._mounts.standalone_python(mount_id) if mount_id else ""
            return ContextRef(
                mount_id="" if standalone else mount_id,
                python=standalone,
                secret_env=await self._secrets.values(list(spec.secret_ids)),
                registry_auth=auth,
                confined=confined,
            )

        image = await self._images.ensure(
            spec,
            make_context,
            force=request.force_build or request.ignore_cache,
            confined=confined,
            function=_function_run(request),
        )
        caller.tell(image.id)
        response = api_pb2.ImageGetOrCreateResponse(image_id=image.id)
        if image.state == READY:
            response.result.status = _SUCCESS
            response.metadata.CopyFrom(_metadata(image.config))
        return response

    @rpc("ImageJoinStreaming", containers=scopes.ASKED_IMAGE)
    async def join(
        self, request: api_pb2.ImageJoinStreamingRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        after = cursor(request.last_entry_id)
        timeout = min(request.timeout or _LONGEST_STREAM, _LONGEST_STREAM)
        image = self._images.get(request.image_id)
        if image.state == BUILDING or request.include_logs_for_finished or image.state != READY:
            async for position, text in self._images.follow(image.id, after, timeout):
                log = api_pb2.TaskLogs(data=text, file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT)
                yield api_pb2.ImageJoinStreamingResponse(task_logs=[log], entry_id=str(position))
        if image.state != BUILDING:
            yield _ended(image)

    @rpc("ImageFromId", containers=scopes.ANYTHING)
    async def from_id(self, request: api_pb2.ImageFromIdRequest, caller: Caller) -> api_pb2.ImageFromIdResponse:
        config = self._images.config(request.image_id)
        return api_pb2.ImageFromIdResponse(image_id=request.image_id, metadata=_metadata(config))


def _function_step(wire: Any) -> FunctionStep | None:
    """What of Image.run_function the image is known by."""
    if not wire.HasField("build_function"):
        return None
    function = wire.build_function
    arguments = function.input.SerializeToString() if function.HasField("input") else b""
    return FunctionStep(function.definition, function.globals, arguments)


def _function_run(request: api_pb2.ImageGetOrCreateRequest) -> FunctionRun | None:
    """Raises InvalidArgument."""
    wire = request.image
    if not wire.HasField("build_function"):
        return None
    if not request.build_function_id or {base.docker_tag for base in wire.base_images} != {"base"}:
        raise InvalidArgument("Image.run_function needs a function and one image to run it on.")
    function = wire.build_function
    if function.HasField("input"):
        return FunctionRun(request.build_function_id, function.input.SerializeToString(), _INVOCATION)
    no_arguments = api_pb2.FunctionInput(args=pickled(((), {})), data_format=api_pb2.DATA_FORMAT_PICKLE)
    return FunctionRun(request.build_function_id, no_arguments.SerializeToString(), _INVOCATION)


def _ended(image: Image) -> api_pb2.ImageJoinStreamingResponse:
    response = api_pb2.ImageJoinStreamingResponse(eof=True)
    if image.state == READY:
        response.result.status = _SUCCESS
        response.metadata.CopyFrom(_metadata(image.config))
    else:
        response.result.status = _FAILURE
        response.result.exception = image.error
    return response


def _metadata(config: ImageConfig | None) -> Any:
    if config is None:
        return api_pb2.ImageMetadata()
    metadata = api_pb2.ImageMetadata(
        python_version_info=f"Python {config.python_version}" if config.python_version else "",
        python_packages=config.python_packages,
        libc_version_info=f"{config.libc} {config.libc_version}",
        image_builder_version=config.builder_version,
    )
    if config.workdir:
        metadata.workdir = config.workdir
    return metadata
