"""What a function's definition on the wire means to the server.

A definition is stored as the `FunctionCreateRequest` that brought it; a binding (parameters and options of a `Cls` instance) as the
`FunctionBindParamsRequest`.
"""

from __future__ import annotations

from typing import Any

from modal_proto import api_pb2

from stoker import unoffered
from stoker.core import schedules
from stoker.core.autoscaler import DEFAULT_SCALEDOWN_WINDOW, ScalingSettings
from stoker.core.books import PoolSettings
from stoker.core.retries import RetryPolicy
from stoker.engine.base import GpuRequest, ResourceRequest
from stoker.errors import InvalidArgument
from stoker.nodes import buckets as bucket
from stoker.nodes.endings import Limits
from stoker.nodes.messages import VolumeUse
from stoker.protocol.values import at_most
from stoker.services.functions.spec import BucketUse, FunctionSpec, ServerSpec, WebSpec

_BUCKET_KINDS: dict[int, bucket.Kind] = {
    api_pb2.CloudBucketMount.R2: bucket.R2,
    api_pb2.CloudBucketMount.GCP: bucket.GCP,
}
_GPU_ALIASES = {"A10G": "A10"}  # Modal's older name for it
_DEFAULT_CPU_MILLI = 125
_DEFAULT_MEMORY_MIB = 128
_DEFAULT_TIMEOUT = 300.0
_LONGEST_TIMEOUT = 86_400.0
_SHORTEST_DERIVED_START = 60.0
_UNLIMITED_TIME = 10 * 365 * 86_400.0  # requests to a server may take any time
_UNLIMITED_REQUESTS = 1_000_000
_LONGEST_SUFFIX = 64  # characters; a label has no more
_MOST_PARTS = 1_000  # of each kind that a function may be made of


def parse_definition(definition: bytes, binding: bytes) -> FunctionSpec:
    """Raises InvalidArgument."""
    request = api_pb2.FunctionCreateRequest.FromString(definition)
    ranked = at_most(ranked_functions(request), _MOST_PARTS, "kinds of machines")
    function = with_options(ranked[0], binding)
    for parts, what in (
        (function.mount_ids, "mounts"),
        (function.secret_ids, "secrets"),
        (function.volume_mounts, "volumes"),
        (function.shared_volume_mounts, "network file systems"),
        (function.cloud_bucket_mounts, "buckets"),
    ):
        at_most(parts, _MOST_PARTS, what)
    gpus = tuple(gpu for f in ranked if (gpu := _gpu(with_options(f, binding).resources.gpu_config)) is not None)
    resources = function.resources
    return FunctionSpec(
        image_id=function.image_id,
        mount_ids=tuple(function.mount_ids),
        secret_ids=tuple(function.secret_ids),
        volumes=_volumes(function),
        buckets=_buckets(function),
        resources=ResourceRequest(
            cpu_milli=resources.milli_cpu or _DEFAULT_CPU_MILLI,
            memory_mib=resources.memory_mb or _DEFAULT_MEMORY_MIB,
            disk_mib=resources.ephemeral_disk_mb,
            gpus=gpus,
        ),
        limits=Limits(
            cpu_milli=resources.milli_cpu_max or None,
            memory_bytes=resources.memory_mb_max << 20 if resources.memory_mb_max else None,
            disk_bytes=resources.ephemeral_disk_mb << 20 or None,
            memory_request=(resources.memory_mb or _DEFAULT_MEMORY_MIB) << 20,
        ),
        pool=_pool(function),
        scaling=scaling_settings(function),
        startup_timeout=_startup_timeout(function),
        network=not function.block_network,
        restricted=request.function_data.untrusted or any(f.untrusted for f in ranked),
        memory_snapshot=function.checkpointing_enabled,
        gpu_snapshot=function._experimental_enable_gpu_snapshot,
        schedule=_schedule(request),
        web=web_specs(function),
        server=_server(function),
        builds_image=function.is_builder_function,
        unsupported=_unsupported(function),
    )


def web_specs(source: Any) -> tuple[WebSpec, ...]:
    """What of a Function (or of its FunctionPrecreateRequest) answers HTTP."""
    if source.webhook_config.type:
        return (_web(source.function_name, "", source.webhook_config),)
    return tuple(
        _web(method.function_name or f"{source.function_name.removesuffix('.*')}.{name}", name, method.webhook_config)
        for name, method in sorted(source.method_definitions.items())
        if method.webhook_config.type
    )


def ranked_functions(request: Any) -> list[Any]:
    """The alternatives of a definition, the preferred one first. They differ in their GPU only."""
    if request.HasField("function_data") and request.function_data.ranked_functions:
        ranked = sorted(request.function_data.ranked_functions, key=lambda r: r.rank)
        return [r.function for r in ranked]
    if not request.HasField("function"):
        raise InvalidArgument("FunctionCreate came without a function.")
    return [request.function]


def with_options(function: Any, binding: bytes) -> Any:
    """The function with what `with_options`, `with_concurrency` and `with_batching` change."""
    if not binding:
        return function
    options: Any = api_pb2.FunctionBindParamsRequest.FromString(binding).function_options
    changed = api_pb2.Function()
    changed.CopyFrom(function)
    if options.replace_secret_ids or options.secret_ids:
        del changed.secret_ids[:]
        changed.secret_ids.extend(options.secret_ids)
    if options.replace_volume_mounts or options.volume_mounts:
        del changed.volume_mounts[:]
        changed.volume_mounts.extend(options.volume_mounts)
    if options.replace_cloud_bucket_mounts or options.cloud_bucket_mounts:
        del changed.cloud_bucket_mounts[:]
        changed.cloud_bucket_mounts.extend(options.cloud_bucket_mounts)
    if options.mount_ids:
        changed.mount_ids.extend(options.mount_ids)
    for name in ("resources", "retry_policy", "scheduler_placement"):
        if options.HasField(name):
            getattr(changed, name).CopyFrom(getattr(options, name))
    for name in (
        "timeout_secs",
        "max_concurrent_inputs",
        "target_concurrent_inputs",
        "batch_max_size",
        "batch_linger_ms",
    ):
        if options.HasField(name):
            setattr(changed, name, getattr(options, name))
    scaling = changed.autoscaler_settings
    for option, name in (
        ("concurrency_limit", "max_containers"),
        ("task_idle_timeout_secs", "scaledown_window"),
        ("warm_pool_size", "min_containers"),
        ("buffer_containers", "buffer_containers"),
    ):
        if options.HasField(option):
            setattr(scaling, name, getattr(options, option))
    return changed


def scaling_settings(function: Any) -> ScalingSettings:
    """From the autoscaler settings, or from the fields that older clients fill."""
    chosen = function.autoscaler_settings

    def pick(name: str, legacy: int) -> int | None:
        return getattr(chosen, name) if chosen.HasField(name) else legacy or None

    return ScalingSettings(
        min_containers=pick("min_containers", function.warm_pool_size) or 0,
        max_containers=pick("max_containers", function.concurrency_limit) or None,  # the client writes 0 for no limit
        buffer_containers=pick("buffer_containers", function._experimental_buffer_containers) or 0,
        scaledown_window=float(pick("scaledown_window", function.task_idle_timeout_secs) or DEFAULT_SCALEDOWN_WINDOW),
        scaleup_window=float(chosen.scaleup_window),
        target_inputs=_target_inputs(function),
        predictive=function.experimental_options.get("predictive_scaling", "").lower() in ("true", "1"),
    )


def _target_inputs(function: Any) -> float:
    if function.is_server:
        # Without a target and without a limit one container takes every request.
        target = function.autoscaler_settings.target_concurrency_float or function.max_concurrent_inputs
        return float(target or _UNLIMITED_REQUESTS)
    slots = function.target_concurrent_inputs or function.max_concurrent_inputs or 1
    return float(slots * max(1, function.batch_max_size))


def _pool(function: Any) -> PoolSettings:
    if function.is_server:
        slots = function.max_concurrent_inputs or _UNLIMITED_REQUESTS
        return PoolSettings(max_concurrent_inputs=slots, timeout=_UNLIMITED_TIME, spread=True)
    return PoolSettings(
        max_concurrent_inputs=max(1, function.max_concurrent_inputs),
        batch_max_size=max(1, function.batch_max_size),
        batch_linger=function.batch_linger_ms / 1000,
        timeout=min(float(function.timeout_secs or _DEFAULT_TIMEOUT), _LONGEST_TIMEOUT),
        retry=_retry(function.retry_policy),
        max_inputs_per_container=1 if function.is_builder_function else _most_inputs(function),
    )


def _most_inputs(function: Any) -> int:
    return function.max_inputs or int(function.single_use_containers)


def _volumes(function: Any) -> tuple[VolumeUse, ...]:
    """Volumes, and network file systems, which are mounted alike."""
    return (
        *(VolumeUse(v.volume_id, v.mount_path, v.read_only, v.sub_path) for v in function.volume_mounts),
        *(VolumeUse(v.shared_volume_id, v.mount_path) for v in function.shared_volume_mounts),
    )


def _buckets(function: Any) -> tuple[BucketUse, ...]:
    return tuple(
        BucketUse(
            name=m.bucket_name,
            mount_path=m.mount_path,
            kind=_BUCKET_KINDS.get(m.bucket_type, bucket.S3),
            endpoint=m.bucket_endpoint_url,
            prefix=m.key_prefix,
            read_only=m.read_only,
            requester_pays=m.requester_pays,
            path_style=m.force_path_style,
            secret_id=m.credentials_secret_id,
        )
        for m in function.cloud_bucket_mounts
    )


def _schedule(request: Any) -> schedules.Schedule | None:
    """Raises InvalidArgument for one that has no meaning."""
    source = request.function if request.function.HasField("schedule") else request.function_data
    if not source.HasField("schedule"):
        return None
    wire = source.schedule
    schedule: schedules.Schedule
    if wire.HasField("cron"):
        schedule = schedules.Cron(wire.cron.cron_string, wire.cron.timezone or "UTC")
    elif wire.HasField("period"):
        schedule = schedules.Period(**{field.name: value for field, value in wire.period.ListFields()})
    else:
        return None
    fault = schedules.fault(schedule)
    if fault:
        raise InvalidArgument(f"The schedule of {source.function_name!r} cannot be used: {fault}")
    return schedule


def _startup_timeout(function: Any) -> float:
    """Seconds. The client fills in the timeout of an input where no start-up timeout was asked for; a function whose inputs may take
    one second must still be able to start on a busy machine."""
    timeout = function.timeout_secs or _DEFAULT_TIMEOUT
    asked = function.startup_timeout_secs or timeout
    return float(max(asked, _SHORTEST_DERIVED_START) if asked == timeout else asked)


def _web(name: str, method: str, config: Any) -> WebSpec:
    return WebSpec(
        name=name,
        method=method,
        label=config.requested_suffix,
        dev_suffix=config.ephemeral_suffix[:_LONGEST_SUFFIX] or "dev",
        proxies=config.type == api_pb2.WEBHOOK_TYPE_WEB_SERVER,
        needs_token=config.requires_proxy_auth,
        domains=tuple(domain.name.strip().lower().rstrip(".") for domain in config.custom_domains),
    )


def _server(function: Any) -> ServerSpec | None:
    if not function.is_server:
        return None
    config = function.http_config
    return ServerSpec(
        name=function.function_name,
        port=config.port,
        exit_grace=float(config.exit_grace_period),
        max_concurrency=function.max_concurrent_inputs,
        needs_token=not config.unauthenticated,
        sessioned=function.is_sessioned,
    )


def _retry(policy: Any) -> RetryPolicy:
    return RetryPolicy(
        retries=policy.retries,
        backoff_coefficient=policy.backoff_coefficient or 1.0,
        initial_delay=policy.initial_delay_ms / 1000,
        max_delay=(policy.max_delay_ms or 60_000) / 1000,
    )


def _gpu(config: Any) -> GpuRequest | None:
    if not config.count and not config.gpu_type:
        return None
    model = (config.gpu_type or "ANY").upper().removesuffix("!")  # "H100!": no automatic upgrade, which we never do
    return GpuRequest(_GPU_ALIASES.get(model, model), max(1, config.count))


def _unsupported(function: Any) -> str:
    """Why calls of this function cannot run here, or ""."""
    if function.is_server:
        return _unsupported_server(function)
    if function.http_config.port:
        return unoffered.HTTP_SERVER.sentence
    return _unsupported_anywhere(function)


def _unsupported_server(function: Any) -> str:
    if function.http_config.HasField("lift_and_shift_config"):
        return unoffered.SERVERS_WITHOUT_CODE.sentence
    if function.http_config.h2_enabled:
        return unoffered.HTTP2.sentence
    if function.block_network:
        return "A server cannot be reached with block_network=True. Leave it out."
    return _unsupported_anywhere(function)


def _unsupported_anywhere(function: Any) -> str:
    if any(mount.oidc_auth_role_arn for mount in function.cloud_bucket_mounts):
        return unoffered.CLOUD_IDENTITY.sentence
    if function._experimental_group_size:
        return unoffered.CLUSTERS.sentence
    if function.i6pn_enabled:
        return unoffered.PRIVATE_NETWORK.sentence
    return ""
