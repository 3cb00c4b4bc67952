"""How the parameters of an instance of a class are shown, from what the client sends."""

from __future__ import annotations

import pickle

from modal._serialization import serialize_proto_params
from modal_proto import api_pb2

from stoker.protocol.parameters import parameters_of
from stoker.services.functions.spec import Function


def shown(serialized: bytes, **options: int) -> str:
    binding = api_pb2.FunctionBindParamsRequest(serialized_params=serialized)
    binding.function_options.CopyFrom(api_pb2.FunctionOptions(**options))
    return parameters_of(Function("fu-1", "ap-1", "Model.*", binding=binding.SerializeToString()))


def test_simple_values_are_shown_and_long_ones_cut() -> None:
    values = {"name": "large", "size": 3, "fast": True, "key": b"secret"}
    assert shown(serialize_proto_params(values)) == "name='large', size=3, fast=True, key=..."
    assert len(shown(serialize_proto_params({"text": "x" * 10_000}))) < 100
    assert "\n" not in shown(serialize_proto_params({"text": "a\nb"}))
    assert parameters_of(Function("fu-1", "ap-1", "f")) == ""


def test_nothing_that_a_client_pickled_is_read() -> None:

    assert shown(pickle.dumps((("large",), {}))) == "..."
    assert shown(b"\x80\xff\xff\xff") == "..."


def test_options_make_instances_differ() -> None:
    assert shown(serialize_proto_params({"size": 3}), max_concurrent_inputs=4) == "size=3, with_options(...)"
