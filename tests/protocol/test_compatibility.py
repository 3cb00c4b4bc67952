"""The page of all RPCs is true, and ids that nobody knows are answered as such."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_grpc, api_pb2

from stoker.protocol.compatibility import CLOUD_ONLY, compatibility_table
from stoker.protocol.rpc import SERVICE, declared_by, message_class
from stoker.protocol.servicers import SERVICERS
from stoker.unoffered import refusal
from tests.conftest import RunningServer

_PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
_OFFERED = sorted(name for servicer in SERVICERS for name in declared_by(servicer))
_NOWHERE = "A" * 22
_CONTAINER_ONLY = {
    name
    for servicer in SERVICERS
    for name, (_, declared) in declared_by(servicer).items()
    if not declared.rights.clients
}
_SUBJECTS = {
    "app_id": "ap",
    "function_id": "fu",
    "function_call_id": "fc",
    "image_id": "im",
    "blob_id": "bl",
    "volume_id": "vo",
    "secret_id": "st",
}
"""Fields that name what an RPC is about, and the prefix of such ids."""

_KNOWS_NO_SUBJECT = {
    "AppCreate",
    "FunctionRetryInputs",  # never offered, with a sentence of its own
    "ImageGetOrCreate",  # about the app only for a record that is not kept
    "ImageListTags",  # names that point to the image, of which there are none
    "MountGetOrCreate",
    "SecretGetOrCreate",
    "VolumeGetOrCreate",
    "TaskList",  # of no app: an empty list
}


def test_the_page_is_up_to_date() -> None:
    assert _PAGE.read_text() == compatibility_table(), "docs/compatibility.md is stale: run `make docs`"


def test_every_rpc_is_in_exactly_one_state() -> None:
    rows = [
        line.split("|")[1:3]
        for line in compatibility_table().split("## Commands")[0].splitlines()
        if line.startswith("| ")
    ][1:]
    assert [name.strip() for name, _ in rows] == sorted(SERVICE.methods_by_name)
    assert {state.strip() for _, state in rows} == {"offered", "cloud only", "not yet"}
    assert len(_OFFERED) == len(set(_OFFERED)), "an RPC is declared twice"
    assert not CLOUD_ONLY & set(_OFFERED)
    assert set(SERVICE.methods_by_name) >= CLOUD_ONLY


@pytest.mark.parametrize("number", ["A" * 22, "../../etc/passwd", "x' OR '1'='1", ""])
def test_unknown_ids_are_not_found(server: RunningServer, number: str) -> None:
    """Never INTERNAL or UNKNOWN, which clients repeat for a minute."""

    async def answers(stub: api_grpc.ModalClientStub) -> dict[str, Status]:
        statuses = {}
        for name in _OFFERED:
            fields = [f.name for f in SERVICE.methods_by_name[name].input_type.fields if f.name in _SUBJECTS]
            if fields and name not in _KNOWS_NO_SUBJECT:
                values = {field: f"{_SUBJECTS[field]}-{number}" if number else "" for field in fields}
                statuses[name] = (await _status(stub, server, name, values))[0]
        return statuses

    statuses = asyncio.run(_with_stub(server, answers))
    assert len(statuses) > 40
    wrong = {
        name: status
        for name, status in statuses.items()
        if status is not (Status.PERMISSION_DENIED if name in _CONTAINER_ONLY else Status.NOT_FOUND)
    }
    # These look at what else is asked for first, which this test leaves empty.
    assert set(wrong) <= {"FunctionBindParams", "ImagePublish", "VolumeRename"}
    assert set(wrong.values()) <= {Status.INVALID_ARGUMENT}


def test_empty_requests_never_look_like_a_passing_failure(server: RunningServer) -> None:
    async def answers(stub: api_grpc.ModalClientStub) -> dict[str, tuple[Status, str]]:
        return {name: await _status(stub, server, name, {}) for name in _OFFERED}

    passing = (Status.INTERNAL, Status.UNKNOWN, Status.UNAVAILABLE, Status.CANCELLED, Status.DEADLINE_EXCEEDED)
    found = asyncio.run(_with_stub(server, answers))
    assert not {name: answer for name, answer in found.items() if answer[0] in passing}
    assert not {name: answer for name, answer in found.items() if "defect" in answer[1]}


def test_references_to_unknown_things(server: RunningServer) -> None:
    """Ids inside of what an app is made of."""

    async def answers(stub: api_grpc.ModalClientStub) -> list[tuple[Status, str]]:
        metadata = _metadata(server)
        app = await stub.AppCreate(api_pb2.AppCreateRequest(description="made of nothing"), metadata=metadata)
        requests: list[tuple[str, Any]] = [
            ("ClassCreate", api_pb2.ClassCreateRequest(app_id=app.app_id, existing_class_id=f"cs-{_NOWHERE}")),
            (
                "FunctionPrecreate",
                api_pb2.FunctionPrecreateRequest(app_id=app.app_id, existing_function_id=f"fu-{_NOWHERE}"),
            ),
            (
                "FunctionCreate",
                api_pb2.FunctionCreateRequest(
                    app_id=app.app_id, existing_function_id=f"fu-{_NOWHERE}", function=api_pb2.Function()
                ),
            ),
            ("AppPublish", api_pb2.AppPublishRequest(app_id=app.app_id, function_ids={"f": f"fu-{_NOWHERE}"})),
        ]
        found = [await _call(stub, server, name, request) for name, request in requests]
        await stub.AppStop(api_pb2.AppStopRequest(app_id=app.app_id), metadata=metadata)
        return found

    found = asyncio.run(_with_stub(server, answers))
    assert [status for status, _ in found] == [Status.NOT_FOUND] * 4, found
    assert all(_NOWHERE in sentence for _, sentence in found)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("image", {"image_id": f"im-{'A' * 22}"}),
        ("mount", {"mount_ids": [f"mo-{'A' * 22}"]}),
        ("secret", {"secret_ids": [f"st-{'A' * 22}"]}),
        ("volume", {"volume_mounts": [api_pb2.VolumeMount(volume_id=f"vo-{'A' * 22}", mount_path="/v")]}),
    ],
)
def test_a_function_with_a_part_that_is_gone_says_which(server: RunningServer, kind: str, part: dict[str, Any]) -> None:
    async def call(stub: api_grpc.ModalClientStub) -> tuple[Any, str]:
        metadata = _metadata(server)
        image = await stub.ImageGetOrCreate(
            api_pb2.ImageGetOrCreateRequest(
                image=api_pb2.Image(dockerfile_commands=["FROM python:3.11-slim-bookworm"]), builder_version="2025.06"
            ),
            metadata=metadata,
        )
        app = await stub.AppCreate(api_pb2.AppCreateRequest(description="not whole"), metadata=metadata)
        function = api_pb2.Function(**({"module_name": "m", "function_name": "f", "image_id": image.image_id} | part))
        created = await stub.FunctionCreate(
            api_pb2.FunctionCreateRequest(app_id=app.app_id, function=function), metadata=metadata
        )
        ids = {"f": created.function_id}
        await stub.AppPublish(api_pb2.AppPublishRequest(app_id=app.app_id, function_ids=ids), metadata=metadata)
        item = api_pb2.FunctionPutInputsItem(input=api_pb2.FunctionInput(args=b"x"))
        made = await stub.FunctionMap(
            api_pb2.FunctionMapRequest(function_id=created.function_id, pipelined_inputs=[item]), metadata=metadata
        )
        answer = await stub.FunctionGetOutputs(
            api_pb2.FunctionGetOutputsRequest(function_call_id=made.function_call_id, timeout=30, max_values=1),
            metadata=metadata,
        )
        await stub.AppStop(api_pb2.AppStopRequest(app_id=app.app_id), metadata=metadata)
        return answer.outputs[0].result.status, answer.outputs[0].result.exception

    status, sentence = asyncio.run(_with_stub(server, call))
    assert status not in (api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, 0)
    assert kind in sentence.lower()
    assert _NOWHERE in sentence


def test_rpcs_that_are_not_offered_say_so(server: RunningServer) -> None:
    async def answers(stub: api_grpc.ModalClientStub) -> dict[str, tuple[Status, str]]:
        names = sorted(set(SERVICE.methods_by_name) - set(_OFFERED))
        return {name: await _status(stub, server, name, {}) for name in names}

    for name, (status, sentence) in asyncio.run(_with_stub(server, answers)).items():
        assert status is Status.UNIMPLEMENTED
        assert sentence == refusal(name)


async def _with_stub(server: RunningServer, use: Any) -> Any:
    url = urlparse(server.env["MODAL_SERVER_URL"])
    channel = Channel(url.hostname, url.port)
    try:
        return await use(api_grpc.ModalClientStub(channel))
    finally:
        channel.close()


async def _status(
    stub: api_grpc.ModalClientStub, server: RunningServer, name: str, values: dict[str, str]
) -> tuple[Status, str]:
    return await _call(stub, server, name, message_class(SERVICE.methods_by_name[name].input_type.full_name)(**values))


async def _call(stub: api_grpc.ModalClientStub, server: RunningServer, name: str, request: Any) -> tuple[Status, str]:
    """The status of a call and the sentence that comes with it; long polls count as OK after a moment."""
    try:
        if SERVICE.methods_by_name[name].server_streaming:
            async with getattr(stub, name).open(timeout=10, metadata=_metadata(server)) as stream:
                await stream.send_message(request, end=True)
                await stream.recv_message()
        else:
            await getattr(stub, name)(request, timeout=10, metadata=_metadata(server))
    except GRPCError as error:
        return error.status, error.message or ""
    return Status.OK, ""


def _metadata(server: RunningServer) -> dict[str, str]:
    env = server.env
    return {
        "x-modal-token-id": env["MODAL_TOKEN_ID"],
        "x-modal-token-secret": env["MODAL_TOKEN_SECRET"],
        "x-modal-client-version": "1.6.4",
        "x-modal-client-type": "1",
    }
