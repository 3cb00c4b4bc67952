"""The wire as the services need it: definitions, container arguments, results that the server makes itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modal_proto import api_pb2

from stoker.core.actions import Outcome
from stoker.protocol.definitions import parse_definition, ranked_functions, with_options
from stoker.protocol.metadata import Metadata
from stoker.protocol.pickling import pickled
from stoker.services.functions.spec import Function, FunctionSpec

_STATUS = {
    Outcome.TIMEOUT: api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT,
    Outcome.CANCELLED: api_pb2.GenericResult.GENERIC_STATUS_TERMINATED,
    Outcome.LOST: api_pb2.GenericResult.GENERIC_STATUS_FAILURE,
    Outcome.INIT_FAILED: api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE,
}


class ModalWire:
    """Implements `services.wire.Wire`. `metadata` is set by the composition root, for it needs the services."""

    metadata: Metadata
    shares_ports = False
    """Whether containers share the ports of one machine, so that only one may listen on a fixed port."""
    predictive = False
    """Whether all functions scale predictively, and not only those that ask for it."""

    def parse_definition(self, definition: bytes, binding: bytes) -> FunctionSpec:
        spec = parse_definition(definition, binding)
        listens = spec.server is not None or any(web.proxies for web in spec.web)
        if self.predictive:
            spec = replace(spec, scaling=replace(spec.scaling, predictive=True))
        if self.shares_ports and listens:
            return replace(spec, scaling=replace(spec.scaling, max_containers=1))
        return spec

    def container_arguments(
        self,
        function: Function,
        task_id: str,
        environment: str,
        checkpoint_id: str = "",
        *,
        gpu_snapshot: bool = False,
    ) -> bytes:
        definition = self.function_proto(function)
        definition.is_checkpointing_function = bool(checkpoint_id)
        definition._experimental_enable_gpu_snapshot = gpu_snapshot
        parameters = b""
        if function.binding:
            parameters = api_pb2.FunctionBindParamsRequest.FromString(function.binding).serialized_params
        dependencies = [d.object_id for d in definition.object_dependencies]
        arguments = api_pb2.ContainerArguments(
            task_id=task_id,
            function_id=function.id,
            app_id=function.app_id,
            function_def=definition,
            serialized_params=parameters,
            environment_name=environment,
            checkpoint_id=checkpoint_id,
            app_layout=self.metadata.layout(function.app_id, dependencies),
        )
        encoded: bytes = arguments.SerializeToString(deterministic=True)
        return encoded

    def scheduled_input(self) -> tuple[bytes, int]:
        message = api_pb2.FunctionInput(args=pickled(((), {})), data_format=api_pb2.DATA_FORMAT_PICKLE)
        return message.SerializeToString(), api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC

    def made_result(self, outcome: Outcome, detail: str) -> tuple[bytes, int]:
        status = _STATUS[outcome]
        encoded: bytes = api_pb2.GenericResult(status=status, exception=detail).SerializeToString()
        return encoded, int(status)

    def function_proto(self, function: Function) -> Any:
        """The definition of a function as its container gets it."""
        request = api_pb2.FunctionCreateRequest.FromString(function.active.content)
        definition = api_pb2.Function()
        definition.CopyFrom(with_options(ranked_functions(request)[0], function.binding))
        return definition
