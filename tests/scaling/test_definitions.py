"""What of the client's settings reaches the autoscaler and the engine."""

from __future__ import annotations

import pytest
from modal_proto import api_pb2

from stoker.protocol.definitions import parse_definition
from stoker.services.functions.spec import FunctionSpec


def parsed(function: api_pb2.Function) -> FunctionSpec:
    return parse_definition(api_pb2.FunctionCreateRequest(function=function).SerializeToString(), b"")


def test_autoscaler_settings() -> None:
    settings = api_pb2.AutoscalerSettings(
        min_containers=1, max_containers=4, buffer_containers=2, scaledown_window=90, scaleup_window=7
    )
    function = api_pb2.Function(autoscaler_settings=settings, max_concurrent_inputs=32, target_concurrent_inputs=25)
    scaling = parsed(function).scaling
    assert (scaling.min_containers, scaling.max_containers, scaling.buffer_containers) == (1, 4, 2)
    assert (scaling.scaledown_window, scaling.scaleup_window, scaling.target_inputs) == (90.0, 7.0, 25.0)


def test_a_maximum_of_nothing_is_none() -> None:
    """The client writes 0 where its user says that there is no limit."""
    for function in (
        api_pb2.Function(autoscaler_settings=api_pb2.AutoscalerSettings(max_containers=0)),
        api_pb2.Function(concurrency_limit=0),
        api_pb2.Function(),
    ):
        assert parsed(function).scaling.max_containers is None


@pytest.mark.parametrize("value, wanted", [("True", True), ("1", True), ("False", False), (None, False)])
def test_prediction_is_asked_for(value: str | None, wanted: bool) -> None:
    function = api_pb2.Function(experimental_options={"predictive_scaling": value} if value is not None else {})
    assert parsed(function).scaling.predictive is wanted


def test_resources() -> None:
    resources = api_pb2.Resources(
        milli_cpu=2_000, milli_cpu_max=4_000, memory_mb=512, memory_mb_max=1_024, ephemeral_disk_mb=600_000
    )
    resources.gpu_config.gpu_type, resources.gpu_config.count = "h100!", 2
    spec = parsed(api_pb2.Function(resources=resources))
    assert (spec.resources.cpu_milli, spec.resources.memory_mib, spec.resources.disk_mib) == (2_000, 512, 600_000)
    assert [(g.model, g.count) for g in spec.resources.gpus] == [("H100", 2)]
    assert (spec.limits.cpu_milli, spec.limits.memory_bytes) == (4_000, 1_024 << 20)
