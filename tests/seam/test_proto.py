"""node.proto says what nodes/base.py says, and what is generated from it is current."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from google.protobuf import descriptor_pb2

import stoker
from stoker.nodes import base, wire
from stoker.nodes.twins import Twin
from stoker.nodes.v1 import node_pb2 as pb

PROTOCOLS = (base.Node, base.Containers, base.Files, base.Builds, base.Ports)


def methods(protocol: type) -> dict[str, Any]:
    return {name: method for name, method in vars(protocol).items() if callable(method) and not name.startswith("_")}


def test_every_method_of_the_seam_is_there() -> None:
    services = {
        name: {re.sub(r"(?<!^)(?=[A-Z])", "_", rpc.name).lower() for rpc in service.methods}
        for name, service in pb.DESCRIPTOR.services_by_name.items()
    }
    asked = {protocol.__name__: set(methods(protocol)) for protocol in PROTOCOLS}
    asked["Ports"].remove("connect")  # carries bytes, and no messages
    assert services == asked


def test_every_event_is_there() -> None:
    told = {field.name for field in pb.Event.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert told == set(methods(base.Observer))


def test_every_value_of_the_seam_has_a_twin() -> None:
    twins = {twin.value for twin in vars(wire).values() if isinstance(twin, Twin)}
    found: set[type] = set()

    def look(hint: Any) -> None:
        if isinstance(hint, type) and is_dataclass(hint) and hint not in found:
            found.add(hint)
            for inner in get_type_hints(hint).values():
                look(inner)
        for inner in get_args(hint):
            look(inner)

    for protocol in (*PROTOCOLS, base.Observer):
        for method in methods(protocol).values():
            for hint in get_type_hints(method).values():
                look(hint)
    assert found and found <= twins


def test_what_is_generated_is_current(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    source = Path(stoker.__file__).parents[1]
    out = tmp_path / "set"
    proto = "stoker/nodes/v1/node.proto"
    assert protoc.main(["protoc", f"-I{source}", f"--descriptor_set_out={out}", str(source / proto)]) == 0
    (current,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    generated = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(generated)
    for file in (current, generated):  # a compiler may note names in JSON, which nobody uses here
        for message in file.message_type:
            for field in (*message.field, *(f for nested in message.nested_type for f in nested.field)):
                field.ClearField("json_name")
    assert generated == current, "run `make protos`"
