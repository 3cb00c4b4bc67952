"""Nonsense in the place of values."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from stoker.errors import InvalidArgument
from stoker.protocol.calls import _methods, _payloads
from stoker.protocol.definitions import parse_definition
from stoker.protocol.scopes import known_blobs
from stoker.protocol.values import at_most, check_entries, cursor, in_turns, seconds


@pytest.mark.parametrize(
    "text, place",
    [("", 0), ("17", 17), ("-1", 0), ("²", 0), ("١٧", 0), ("1" * 5_000, 0), ("1" * 19, 0), ("0-0", 0), ("x", 0)],
)
def test_a_place_is_a_number_or_the_begin(text: str, place: int) -> None:
    assert cursor(text) == place


def test_a_time_that_cannot_be_is_said_to_be_none() -> None:
    assert seconds(Timestamp(seconds=17, nanos=500_000_000)) == 17.5
    for broken in (Timestamp(seconds=1 << 62), Timestamp(nanos=-1)):
        with pytest.raises(InvalidArgument, match="no time"):
            seconds(broken)


def test_long_lists_are_refused_or_dealt_with_in_turns() -> None:
    assert at_most([1, 2], 2, "things") == [1, 2]
    with pytest.raises(InvalidArgument, match="3 things"):
        at_most([1, 2, 3], 2, "things")

    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(other())
        assert [n async for n in in_turns(range(10_000))] == list(range(10_000))
        assert turns >= 9
        beside.cancel()

    asyncio.run(main())


def test_inputs_of_a_call_are_bounded_and_each_has_an_index_of_its_own() -> None:
    item = api_pb2.FunctionPutInputsItem(idx=1, input=api_pb2.FunctionInput(args=b"x"))
    with pytest.raises(InvalidArgument, match="same index"):
        _payloads([item, item])
    with pytest.raises(InvalidArgument, match="too many"):
        _payloads([item] * 20_000)


def test_a_method_has_the_name_of_one() -> None:
    def methods(name: str) -> dict[int, str]:
        return _methods([api_pb2.FunctionPutInputsItem(idx=1, input=api_pb2.FunctionInput(method_name=name))])

    assert (methods("say"), methods("")) == ({1: "say"}, {})
    for name in ("a" * 257, "no name", "nul\0"):
        with pytest.raises(InvalidArgument, match="cannot name a method"):
            methods(name)


def test_a_function_has_so_many_parts() -> None:
    request = api_pb2.FunctionCreateRequest(function=api_pb2.Function(secret_ids=[f"st-{n}" for n in range(2_000)]))
    with pytest.raises(InvalidArgument, match="2000 secrets"):
        parse_definition(request.SerializeToString(), b"")


def test_lists_of_what_an_app_is_made_of_are_counted_wherever_they_are() -> None:
    """A list of nothing but empty entries takes two bytes for each, and far more work."""
    function = api_pb2.Function(mount_ids=["mo-1"] * 6_000)
    check_entries(api_pb2.FunctionCreateRequest(function=function))
    for request in (
        api_pb2.FunctionCreateRequest(function=api_pb2.Function(secret_ids=[""] * 10_001)),
        api_pb2.ImageGetOrCreateRequest(image=api_pb2.Image(base_images=[api_pb2.BaseImage()] * 10_001)),
        api_pb2.FunctionPrecreateRequest(method_definitions={str(n): {} for n in range(10_001)}),
        api_pb2.FunctionCreateRequest(
            function_data=api_pb2.FunctionData(
                ranked_functions=[api_pb2.FunctionData.RankedFunction(function=function)] * 2
            )
        ),
    ):
        with pytest.raises(InvalidArgument, match="10000 entries"):
            check_entries(request)


def test_a_container_names_few_blobs_in_one_request() -> None:
    request = api_pb2.FunctionMapRequest(pipelined_inputs=[api_pb2.FunctionPutInputsItem()] * 10_001)
    container: Any = SimpleNamespace(told=())
    with pytest.raises(InvalidArgument, match="10000 blobs"):
        known_blobs("pipelined_inputs", "input", "args_blob_id").check(request, container, cast(Any, None))
