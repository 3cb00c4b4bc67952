"""The parameters of an instance of a class, for people."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from modal_proto import api_pb2

from stoker.services.functions.spec import Function

_LONGEST = 60  # characters of a value
_SIMPLE = {
    api_pb2.PARAM_TYPE_STRING: "string_value",
    api_pb2.PARAM_TYPE_INT: "int_value",
    api_pb2.PARAM_TYPE_BOOL: "bool_value",
}


def parameters_of(function: Function) -> str:
    """Such as "name='large', size=3"; empty for a function that has none. Values that only Python can read are "..."."""
    if not function.binding:
        return ""
    binding = api_pb2.FunctionBindParamsRequest.FromString(function.binding)
    parts = _shown(binding.serialized_params) if binding.serialized_params else []
    return ", ".join([*parts, "with_options(...)"] if binding.function_options.ByteSize() else parts)


def _shown(serialized: bytes) -> list[str]:
    try:
        parameters = api_pb2.ClassParameterSet.FromString(serialized).parameters
    except DecodeError:
        return ["..."]  # those of a class with __init__ of its own are pickled
    return [f"{parameter.name}={_value(parameter)}" for parameter in parameters] or ["..."]


def _value(parameter: Any) -> str:
    field = _SIMPLE.get(parameter.type)
    if field is None:
        return "..."
    shown = repr(getattr(parameter, field))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
