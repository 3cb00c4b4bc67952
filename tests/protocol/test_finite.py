"""Requests with numbers that are none are refused before anything is done, whichever field has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from modal_proto import api_pb2

from stoker.errors import InvalidArgument
from stoker.protocol.finite import check_of
from stoker.protocol.rpc import SERVICE

NAN, INF = math.nan, math.inf


def _method(class_name: str, **webhook: float) -> Any:
    function = api_pb2.Function()
    function.method_definitions[class_name].webhook_config.CopyFrom(api_pb2.WebhookConfig(**webhook))
    return api_pb2.FunctionCreateRequest(function=function)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("timeout", lambda value: api_pb2.QueueGetRequest(timeout=value)),
        ("pagination.created_before", lambda value: api_pb2.DictListRequest(pagination={"created_before": value})),
        (
            "function.retry_policy.backoff_coefficient",
            lambda value: api_pb2.FunctionCreateRequest(function={"retry_policy": {"backoff_coefficient": value}}),
        ),
        (
            "function.method_definitions.webhook_config.web_server_startup_timeout",
            lambda value: _method("serve", web_server_startup_timeout=value),
        ),
        (
            "outputs.output_created_at",
            lambda value: api_pb2.FunctionPutOutputsRequest(
                outputs=[{"output_created_at": 1}, {"output_created_at": value}]
            ),
        ),
    ],
)
def test_what_is_no_finite_number_is_refused_with_its_field(
    path: str, make: Callable[[float], Any], value: float
) -> None:
    check = check_of(make(0.0).DESCRIPTOR)
    assert check is not None
    check(make(1e30))
    with pytest.raises(InvalidArgument, match=rf"^{path} is (nan|inf|-inf); it must be a finite number"):
        check(make(value))


def test_requests_without_such_fields_cost_nothing() -> None:
    assert check_of(api_pb2.DictGetRequest.DESCRIPTOR) is None
    assert check_of(SERVICE.methods_by_name["FunctionGet"].input_type) is None


def test_work_is_bounded_for_lists_of_empty_entries() -> None:
    request = api_pb2.FunctionPutOutputsRequest(outputs=[api_pb2.FunctionPutOutputsItem()] * 20_000)
    check = check_of(request.DESCRIPTOR)
    assert check is not None
    with pytest.raises(InvalidArgument, match=r"outputs has .* entries; one request may have 10000"):
        check(request)
