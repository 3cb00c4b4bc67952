"""Functions and classes on the wire: declared by a deploying client, looked up by a calling one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from modal_proto import api_pb2

from stoker.core.autoscaler import ScalingSettings
from stoker.engine.base import ResourceRequest
from stoker.errors import InvalidArgument, NameIsClass, NotFound, Unimplemented
from stoker.protocol import scopes
from stoker.protocol.definitions import parse_definition, web_specs
from stoker.protocol.metadata import Metadata
from stoker.protocol.rpc import Caller, rpc
from stoker.protocol.values import check_entries
from stoker.services.apps import App, Apps
from stoker.services.deployments import Deployments, unknown_version
from stoker.services.endpoints import Audience, Endpoints, targets
from stoker.services.environments import Environments
from stoker.services.functions import Function, Functions
from stoker.services.scheduler import Scheduler

_MOST_HEADROOM = (1 << 32) - 1  # that the wire can say


class FunctionServicer:
    def __init__(
        self,
        *,
        functions: Functions,
        apps: Apps,
        environments: Environments,
        metadata: Mapping[Audience, Metadata],
        endpoints: Endpoints,
        scheduler: Scheduler,
        deployments: Deployments,
        obstacle: Callable[[ResourceRequest], str],
    ) -> None:
        """obstacle: why no machine here can ever hold a request, "" when one can."""
        self._functions = functions
        self._apps = apps
        self._environments = environments
        self._metadata = metadata
        self._endpoints = endpoints
        self._scheduler = scheduler
        self._deployments = deployments
        self._obstacle = obstacle

    @rpc("FunctionPrecreate", once=True)
    async def precreate(
        self, request: api_pb2.FunctionPrecreateRequest, caller: Caller
    ) -> api_pb2.FunctionPrecreateResponse:
        check_entries(request)
        self._apps.alive(request.app_id)
        self._endpoints.check(request.app_id, web_specs(request))  # clients ask this before they have images built
        function = await self._functions.precreate(
            request.app_id, request.function_name, request.existing_function_id, request.SerializeToString()
        )
        return api_pb2.FunctionPrecreateResponse(
            function_id=function.id, handle_metadata=self._metadata[caller.audience].of_function(function)
        )

    @rpc("FunctionCreate", once=True)
    async def create(self, request: api_pb2.FunctionCreateRequest, caller: Caller) -> api_pb2.FunctionCreateResponse:
        check_entries(request)
        self._apps.alive(request.app_id)
        name = request.function.function_name or request.function_data.function_name
        spec = parse_definition(request.SerializeToString(), b"")
        if spec.unsupported:
            raise Unimplemented(f"{name} cannot run here. {spec.unsupported}")
        self._endpoints.check(request.app_id, targets(spec))
        function = await self._functions.define(
            request.app_id, name, request.existing_function_id, request.SerializeToString(), caller.client_version
        )
        data = self._metadata[caller.audience].function_data(function)
        response = api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function_data=data,
            handle_metadata=self._metadata[caller.audience].of_function(function),
        )
        response.function.CopyFrom(data.ranked_functions[0].function)
        obstacle = self._obstacle(spec.resources)
        if obstacle:
            response.server_warnings.add(message=f"{name} cannot run on this server as it is now. {obstacle}")
        return response

    @rpc("ClassCreate", once=True)
    async def create_class(self, request: api_pb2.ClassCreateRequest, caller: Caller) -> api_pb2.ClassCreateResponse:
        check_entries(request)
        self._apps.alive(request.app_id)
        class_id = await self._functions.create_class(request.app_id, request.existing_class_id)
        return api_pb2.ClassCreateResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    @rpc("FunctionGet", containers=scopes.ANY_ENVIRONMENT)
    async def get(self, request: api_pb2.FunctionGetRequest, caller: Caller) -> api_pb2.FunctionGetResponse:
        app = self._app(request.app_name, request.environment_name)
        function_id = app.function_ids.get(request.object_tag)
        pinned = await self._pinned(app, request.object_tag, request.app_version)
        if pinned is not None:
            function_id = pinned.id
        if function_id is None:
            if request.object_tag in app.class_ids:
                raise NameIsClass(
                    f"{request.object_tag!r} of the app {app.name!r} is a class: use modal.Cls.from_name for it."
                )
            known = ", ".join(sorted(t for t in app.function_ids if not t.endswith(".*"))) or "none"
            raise NotFound(f"The app {app.name!r} has no function {request.object_tag!r}. It has: {known}.")
        function = self._functions.get(function_id)
        return api_pb2.FunctionGetResponse(
            function_id=function.id,
            handle_metadata=self._metadata[caller.audience].of_function(function),
            function=self._metadata[caller.audience].function_data(function),
        )

    @rpc("FunctionGetById", containers=scopes.ANYTHING)
    async def get_by_id(
        self, request: api_pb2.FunctionGetByIdRequest, caller: Caller
    ) -> api_pb2.FunctionGetByIdResponse:
        function = self._functions.get(request.function_id)
        return api_pb2.FunctionGetByIdResponse(
            function=self._metadata[caller.audience].function_data(function),
            handle_metadata=self._metadata[caller.audience].of_function(function),
        )

    @rpc("ClassGet", containers=scopes.ANY_ENVIRONMENT)
    async def get_class(self, request: api_pb2.ClassGetRequest, caller: Caller) -> api_pb2.ClassGetResponse:
        app = self._app(request.app_name, request.environment_name)
        class_id = app.class_ids.get(request.object_tag)
        if class_id is None:
            known = ", ".join(sorted(app.class_ids)) or "none"
            raise NotFound(f"The app {app.name!r} has no class {request.object_tag!r}. It has: {known}.")
        pinned = await self._pinned(app, f"{request.object_tag}.*", request.app_version)
        return api_pb2.ClassGetResponse(
            class_id=class_id, handle_metadata=self._metadata[caller.audience].of_class(app, request.object_tag, pinned)
        )

    @rpc("FunctionBindParams", once=True, containers=scopes.OPTIONS_WITH_OWN_SECRETS)
    async def bind(
        self, request: api_pb2.FunctionBindParamsRequest, caller: Caller
    ) -> api_pb2.FunctionBindParamsResponse:
        check_entries(request)
        if not request.serialized_params and not request.HasField("function_options"):
            raise InvalidArgument("FunctionBindParams came without parameters and without options.")
        # What does not change the container must not split the pool.
        binding = api_pb2.FunctionBindParamsRequest(serialized_params=request.serialized_params)
        if request.HasField("function_options"):
            binding.function_options.CopyFrom(request.function_options)
        function = await self._functions.bind(request.function_id, binding.SerializeToString(deterministic=True))
        return api_pb2.FunctionBindParamsResponse(
            bound_function_id=function.id, handle_metadata=self._metadata[caller.audience].of_function(function)
        )

    @rpc("FunctionUpdateSchedulingParams", containers=scopes.FUNCTION_OF_OWN_ENVIRONMENT)
    async def update_scaling(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest, caller: Caller
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        function = self._functions.get(request.function_id)
        old = function.scaling
        asked: Any = request.settings

        def pick(name: str, now: int | float | None) -> int | float | None:
            value: int = getattr(asked, name)
            return value if asked.HasField(name) else now

        function.scaling_override = replace(
            old,
            min_containers=int(pick("min_containers", request.warm_pool_size_override or old.min_containers) or 0),
            # The client writes 0 for no limit.
            max_containers=int(pick("max_containers", old.max_containers) or 0) or None,
            buffer_containers=int(pick("buffer_containers", old.buffer_containers) or 0),
            scaledown_window=float(pick("scaledown_window", old.scaledown_window) or 0.0),
            scaleup_window=float(pick("scaleup_window", old.scaleup_window) or 0.0),
            target_inputs=float(
                pick("target_concurrency_float", pick("target_concurrency", old.target_inputs)) or old.target_inputs
            ),
        )
        self._scheduler.rescale(function.id)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=_scaling(function.scaling))

    @rpc("FunctionGetSchedulingParams", containers=scopes.ANYTHING)
    async def get_scaling(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest, caller: Caller
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        function = self._functions.get(request.function_id)
        response = api_pb2.FunctionGetSchedulingParamsResponse()
        response.autoscaler_configuration.settings.CopyFrom(_scaling(function.scaling))
        return response

    @rpc("FunctionGetCurrentStats", containers=scopes.ANYTHING)
    async def stats(self, request: api_pb2.FunctionGetCurrentStatsRequest, caller: Caller) -> api_pb2.FunctionStats:
        self._functions.get(request.function_id)
        runner = self._scheduler.runner(request.function_id)
        if runner is None:
            return api_pb2.FunctionStats()
        return api_pb2.FunctionStats(
            backlog=runner.pool.backlog,
            num_total_tasks=len(runner.pool.containers),
            num_running_inputs=runner.pool.running,
            input_headroom=min(runner.pool.headroom, _MOST_HEADROOM),
        )

    async def _pinned(self, app: App, tag: str, version: int) -> Function | None:
        """What a version of an app had under a tag, or None for a look-up that names no version. Raises NotFound."""
        if not version:
            return None
        known = {d.version: d for d in self._deployments.history(app.id)}
        deployment = known.get(version)
        if deployment is None:
            raise unknown_version(app, version, known)
        function_id = deployment.function_ids.get(tag, "")
        if function_id not in deployment.definition_ids:
            name = tag.removesuffix(".*")
            raise NotFound(f"v{version} of the app {app.name!r} has no {name!r}. `modal app history` shows versions.")
        return await self._functions.pin(function_id, deployment.definition_ids[function_id])

    def _app(self, name: str, environment_name: str) -> App:
        environment = self._environments.resolve(environment_name)
        app = self._apps.by_name(environment.id, name)
        if app is None:
            raise NotFound(
                f"There is no deployed app {name!r} in the environment {environment.name!r}. "
                "`modal app list` shows what is deployed; `modal deploy` deploys."
            )
        return app


def _scaling(settings: ScalingSettings) -> api_pb2.AutoscalerSettings:
    wire = api_pb2.AutoscalerSettings(
        min_containers=settings.min_containers,
        buffer_containers=settings.buffer_containers,
        scaledown_window=int(settings.scaledown_window),
        scaleup_window=int(settings.scaleup_window),
    )
    if settings.max_containers is not None:
        wire.max_containers = settings.max_containers
    return wire
