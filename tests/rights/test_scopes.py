"""What a container may not do to other apps, environments, containers, secrets and blobs; and what apps do goes on working."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import modal
import pytest
from modal_proto import api_pb2

from tests.rights.conftest import ELSEWHERE, Rights

DENIED = "PERMISSION_DENIED"


@pytest.fixture
def foreign_call(rights: Rights) -> Iterator[modal.FunctionCall[Any]]:
    """A call of another app that runs, made by a client."""
    call = rights.function("slow", "rights-other").spawn(120)
    while rights.function("slow", "rights-other").get_current_stats().num_running_inputs == 0:
        time.sleep(0.05)
    yield call
    call.cancel(terminate_containers=True)


@pytest.fixture
def foreign_blob(rights: Rights) -> str:
    """A blob of somebody else, whose id an attacker would have guessed."""
    made = rights.tell("BlobCreate", content_length=6)

    async def upload() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.put(made.multipart.upload_urls[0], data=b"secret") as answer:
                etag = answer.headers["ETag"]
            part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
            await session.post(
                made.multipart.completion_url, data=f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>"
            )

    asyncio.run(upload())
    assert rights.tell("BlobGet", blob_id=made.blob_id).download_url
    return str(made.blob_id)


# Calls


def test_a_call_of_another_app_is_not_cancelled(rights: Rights, foreign_call: Any) -> None:
    status, sentence, _ = rights.ask("FunctionCallCancel", function_call_id=foreign_call.object_id)
    assert status == DENIED and "another app" in sentence
    with pytest.raises(TimeoutError):
        foreign_call.get(timeout=0)
    assert rights.function("slow", "rights-other").get_current_stats().num_running_inputs == 1


def test_calls_of_the_own_functions_are_cancelled_whoever_made_them(rights: Rights) -> None:
    call = rights.function("slow").spawn(120)
    assert rights.ask("FunctionCallCancel", function_call_id=call.object_id)[0] == "OK"
    with pytest.raises(modal.exception.RemoteError, match="cancelled"):
        call.get(timeout=30)


def test_a_call_that_the_own_app_made_is_cancelled_whosever_the_function_is(rights: Rights) -> None:
    assert rights.function("call_and_cancel").remote("rights-other") == "The input was cancelled."


def test_who_made_a_call_is_known_after_it_was_forgotten(rights: Rights) -> None:
    """What is in memory of a call goes soon after its end, and with the server."""
    spawned = rights.ask("FunctionMap", function_id=rights.function_id("echo", "rights-other"), function_call_type=1)[2]
    with sqlite3.connect(rights.server.data / "stoker.db") as database:
        query = "SELECT caller_app_id FROM calls WHERE id = ?"
        assert database.execute(query, [spawned.function_call_id]).fetchone() == (rights.app_id("rights"),)


@pytest.mark.parametrize("name", ["FunctionGetOutputs", "FunctionCallFromId", "FunctionCallGetDataOut"])
def test_results_are_read_in_the_own_environment_alone(rights: Rights, name: str) -> None:
    near, far = (rights.function("echo", app, env) for app, env in (("rights-other", "main"), ("rights", ELSEWHERE)))
    assert rights.ask(name, function_call_id=near.spawn(1).object_id)[0] == "OK"
    assert rights.ask(name, function_call_id=far.spawn(1).object_id)[0] == DENIED


@pytest.mark.parametrize("name", ["FunctionPutInputs", "FunctionFinishInputs", "FunctionGetCallGraph"])
def test_nothing_is_added_to_a_call_of_others(rights: Rights, foreign_call: Any, name: str) -> None:
    fields = {"function_call_id": foreign_call.object_id}
    assert rights.ask(name, **fields)[0] == DENIED


@pytest.mark.parametrize("by", ["ask", "ask_restricted"])
@pytest.mark.parametrize("name", ["FunctionCallPutDataOut", "FunctionCallGetDataIn"])
def test_what_flows_through_a_call_is_its_containers_alone(rights: Rights, name: str, by: str) -> None:
    counting = rights.function("count_slowly")
    chunk = [api_pb2.DataChunk(index=n, data=b"forged") for n in range(1, 9)]
    numbers = counting.remote_gen(1.0)
    assert next(numbers) == 0
    call_id = _running_call(rights, "count_slowly")
    more = {"data_chunks": chunk} if name == "FunctionCallPutDataOut" else {}
    status, sentence, _ = rights.ask(name, by=by, function_call_id=call_id, **more)
    assert status == DENIED and "does not run that call" in sentence
    assert list(numbers) == [1, 2]


def _running_call(rights: Rights, name: str) -> str:
    calls = rights.tell(
        "FunctionCallFetch", function_id=rights.function_id(name), tail=api_pb2.FunctionCallFetchRequest.Tail(count=1)
    )
    return str(calls.function_call_inputs[0].function_call_id)


def test_the_output_of_another_container_is_not_replaced(rights: Rights) -> None:
    call = rights.function("slow").spawn(3)
    graph = rights.tell("FunctionGetCallGraph", function_call_id=call.object_id)
    result = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE, exception="forged")
    item = api_pb2.FunctionPutOutputsItem(input_id=graph.inputs[0].input_id, result=result)
    assert rights.ask("FunctionPutOutputs", outputs=[item])[0] == "OK"  # as one that comes too late
    assert call.get(timeout=60) == "slow"


def test_a_call_has_no_parent_but_the_input_that_made_it(rights: Rights) -> None:
    echo = rights.function_id("echo")
    call = rights.function("slow", "rights-other").spawn(0)
    parent = rights.tell("FunctionGetCallGraph", function_call_id=call.object_id).inputs[0].input_id
    item = api_pb2.FunctionPutInputsItem(input=api_pb2.FunctionInput(args=b"x"))
    made = rights.ask("FunctionMap", function_id=echo, parent_input_id=parent, pipelined_inputs=[item])[2]
    graph = rights.tell("FunctionGetCallGraph", function_call_id=call.object_id)
    assert made.function_call_id not in [c.function_call_id for c in graph.function_calls]


# Blobs


def _uses_of(blob_id: str, function_id: str) -> dict[str, dict[str, Any]]:
    put = api_pb2.FunctionPutInputsItem(input=api_pb2.FunctionInput(args_blob_id=blob_id))
    result = api_pb2.GenericResult(status=1, data_blob_id=blob_id)
    return {
        "BlobGet": {"blob_id": blob_id},
        "FunctionMap": {"function_id": function_id, "pipelined_inputs": [put]},
        "FunctionPutOutputs": {"outputs": [api_pb2.FunctionPutOutputsItem(result=result)]},
        "TaskResult": {"result": result},
        "MountPutFile": {"sha256_hex": "0" * 64, "data_blob_id": blob_id},
        "SharedVolumePutFile": {"path": "x", "data_blob_id": blob_id},
    }


def test_a_blob_that_nobody_told_of_is_not_used(rights: Rights, foreign_blob: str) -> None:
    for name, fields in _uses_of(foreign_blob, rights.function_id("echo")).items():
        status, sentence, _ = rights.ask(name, **fields)
        assert status == DENIED and "blobs" in sentence, name
    status, sentence, _ = rights.ask("BlobGet", by="ask_restricted", blob_id=foreign_blob)
    assert status == DENIED and "blobs" in sentence
    assert rights.tell("BlobGet", blob_id=foreign_blob).download_url  # it is still there


def test_a_blob_of_the_own_making_is_used(rights: Rights) -> None:
    [(status, _, answer)] = rights.function("ask").remote([("BlobCreate", b"", {})])
    blob_id = api_pb2.BlobCreateResponse.FromString(answer).blob_id
    status, sentence, _ = rights.ask("BlobGet", blob_id=blob_id)  # by the same container
    assert (status, "not uploaded completely" in sentence) == ("NOT_FOUND", True)
    assert rights.ask("BlobGet", app="rights-other", blob_id=blob_id)[0] == DENIED


# Apps, functions, containers


@pytest.mark.parametrize(
    "name", ["AppGetLogs", "AppFetchLogs", "AppCountLogs", "AppStop", "AppGetInfo", "AppGetTags", "TaskList"]
)
def test_another_app_is_left_alone(rights: Rights, name: str) -> None:
    for app_id in (rights.app_id("rights-other"), rights.app_id("rights", ELSEWHERE)):
        status, sentence, _ = rights.ask(name, app_id=app_id)
        assert status == DENIED and "its own app" in sentence
    if name != "AppStop":
        assert rights.ask(name, app_id=rights.app_id("rights"))[0] == "OK"


def test_all_containers_of_the_server_are_not_listed(rights: Rights) -> None:
    assert rights.ask("TaskList")[0] == DENIED


@pytest.mark.parametrize(
    "name", ["AppCreate", "AppPublish", "FunctionCreate", "AppRollback", "TokensList", "WebhookTokenCreate"]
)
def test_what_is_for_people_says_what_code_can_do(rights: Rights, name: str) -> None:
    status, sentence, _ = rights.ask(name)
    assert status == DENIED and "modal.Client.from_credentials" in sentence


def test_the_scaling_of_another_environment_is_left_alone(rights: Rights) -> None:
    name = "FunctionUpdateSchedulingParams"
    assert rights.ask(name, function_id=rights.function_id("echo", "rights-other"))[0] == "OK"
    assert rights.ask(name, function_id=rights.function_id("echo", "rights", ELSEWHERE))[0] == DENIED


def test_a_container_stops_itself_alone_and_asks_for_its_own_inputs(rights: Rights, foreign_call: Any) -> None:
    tasks = rights.tell("TaskList", app_id=rights.app_id("rights-other")).tasks
    assert rights.ask("ContainerStop", task_id=tasks[0].task_id)[0] == DENIED
    other = rights.function_id("slow", "rights-other")
    for name in ("FunctionGetInputs", "FunctionGetDynamicConcurrency"):
        for by in ("ask", "ask_restricted"):
            status, sentence, _ = rights.ask(name, by=by, function_id=other)
            assert status == DENIED and "its own function" in sentence


def test_a_container_asks_for_no_snapshot_but_its_own(rights: Rights) -> None:
    for by in ("ask", "ask_restricted"):
        status, sentence, _ = rights.ask("ContainerCheckpoint", by=by, checkpoint_id="ch-" + "A" * 22)
        assert status == "INVALID_ARGUMENT" and "was not started to become" in sentence


# Environments and what is in them

_KINDS = {
    "Dict": {"deployment_name": "rights-entries"},
    "Queue": {"deployment_name": "rights-line"},
    "Volume": {"deployment_name": "rights-shelf"},
    "SharedVolume": {"deployment_name": "rights-nfs"},
}
_IF_MISSING = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING


@pytest.mark.parametrize("kind", _KINDS)
def test_objects_of_another_environment_are_used_and_neither_made_nor_deleted_nor_listed(
    rights: Rights, kind: str
) -> None:
    get, delete, listing = f"{kind}GetOrCreate", f"{kind}Delete", f"{kind}List"
    field = {"SharedVolume": "shared_volume_id"}.get(kind, f"{kind.lower()}_id")
    made = rights.tell(get, **_KINDS[kind], environment_name=ELSEWHERE, object_creation_type=_IF_MISSING)
    found = rights.ask(get, **_KINDS[kind], environment_name=ELSEWHERE)
    assert found[0] == "OK" and getattr(found[2], field) == getattr(made, field)
    if_missing = {"environment_name": ELSEWHERE, "object_creation_type": _IF_MISSING}
    assert rights.ask(get, **_KINDS[kind], **if_missing)[0] == "OK"
    new = {"deployment_name": "rights-new", "object_creation_type": _IF_MISSING}
    assert rights.ask(get, **new, environment_name=ELSEWHERE)[0] == "NOT_FOUND"
    for creation in (api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS, api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL):
        fields = new | {"object_creation_type": creation, "environment_name": ELSEWHERE}
        assert rights.ask(get, **fields)[0] == DENIED
    assert rights.ask(delete, **{field: getattr(made, field)})[0] == DENIED
    assert rights.ask(listing, environment_name=ELSEWHERE)[0] == DENIED
    assert rights.ask(listing)[0] == "OK"
    status, _, mine = rights.ask(get, **new)  # without a name: the own environment
    assert status == "OK"
    assert rights.tell(get, deployment_name="rights-new", environment_name="main")
    assert rights.ask(delete, **{field: getattr(mine, field)})[0] == "OK"


def test_an_environment_that_is_not_named_is_the_containers_own(rights: Rights) -> None:
    answer = rights.ask("EnvironmentGetOrCreate", environment=ELSEWHERE)[2]
    assert answer.metadata.name == ELSEWHERE
    listed = rights.ask("AppList", environment=ELSEWHERE)[2]
    assert rights.app_id("rights", ELSEWHERE) in [app.app_id for app in listed.apps]
    assert rights.app_id("rights") not in [app.app_id for app in listed.apps]
    assert rights.ask("AppList", environment=ELSEWHERE, environment_name="main")[0] == DENIED


def test_no_environment_is_made(rights: Rights) -> None:
    name = "EnvironmentGetOrCreate"
    assert rights.ask(name, deployment_name="fresh", object_creation_type=_IF_MISSING)[0] == DENIED
    assert rights.ask(name, deployment_name="main", object_creation_type=_IF_MISSING)[0] == "OK"
    fail = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
    assert rights.ask(name, deployment_name="fresh", object_creation_type=fail)[0] == DENIED


# Secrets


def test_secrets_of_another_environment_are_out_of_reach(rights: Rights) -> None:
    far = rights.tell("SecretGetOrCreate", deployment_name="rights-secret", environment_name=ELSEWHERE).secret_id
    assert rights.ask("SecretGetOrCreate", deployment_name="rights-secret", environment_name=ELSEWHERE)[0] == DENIED
    assert rights.ask("SecretGetInfo", secret_id=far)[0] == DENIED
    image = api_pb2.Image(dockerfile_commands=["FROM scratch", "RUN env"], secret_ids=[far])
    assert rights.ask("ImageGetOrCreate", image=image)[0] == DENIED
    login = api_pb2.ImageRegistryConfig(secret_id=far, registry_auth_type=api_pb2.REGISTRY_AUTH_TYPE_STATIC_CREDS)
    image = api_pb2.Image(dockerfile_commands=["FROM scratch"], image_registry_config=login)
    assert rights.ask("ImageGetOrCreate", image=image)[0] == DENIED
    options = api_pb2.FunctionOptions(secret_ids=[far])
    bound = {"function_id": rights.function_id("echo"), "function_options": options}
    assert rights.ask("FunctionBindParams", **bound)[0] == DENIED
    bucket = api_pb2.CloudBucketMount(bucket_name="b", credentials_secret_id=far)
    bound["function_options"] = api_pb2.FunctionOptions(cloud_bucket_mounts=[bucket])
    assert rights.ask("FunctionBindParams", **bound)[0] == DENIED


def test_secrets_are_found_and_made_and_never_changed(rights: Rights) -> None:
    name = "SecretGetOrCreate"
    near = rights.ask(name, deployment_name="rights-secret")
    assert near[0] == "OK" and list(near[2].metadata.keys) == ["WHERE"]
    assert (
        rights.ask(name, deployment_name="rights-made", env_dict={"A": "1"}, object_creation_type=_IF_MISSING)[0]
        == "OK"
    )
    replaced = {"env_dict": {"A": "2"}, "object_creation_type": api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS}
    assert rights.ask(name, deployment_name="rights-secret", **replaced)[0] == DENIED
    for change in ("SecretUpdate", "SecretDelete"):
        assert rights.ask(change, secret_id=near[2].secret_id)[0] == DENIED


# Images and mounts


def test_the_build_of_another_is_not_followed(rights: Rights) -> None:
    image = api_pb2.Image(dockerfile_commands=["FROM python:3.11-slim-bookworm", "RUN echo private"])
    built = rights.tell("ImageGetOrCreate", image=image, builder_version="2025.06")
    for name, fields in (
        ("ImageJoinStreaming", {"image_id": built.image_id, "include_logs_for_finished": True}),
        ("ImageBuildChainGet", {"image_id": built.image_id}),
        ("AppFetchLogs", {"app_id": built.image_id}),
        ("AppCountLogs", {"app_id": built.image_id}),
    ):
        assert rights.ask(name, **fields)[0] == DENIED, name
    asked = api_pb2.ImageGetOrCreateRequest(image=image, builder_version="2025.06").SerializeToString()
    join = api_pb2.ImageJoinStreamingRequest(image_id=built.image_id).SerializeToString()
    [(status, _, _)] = rights.function("ask").remote([("ImageGetOrCreate", asked, {})])
    assert status == "OK"
    [(status, _, _)] = rights.function("ask").remote(
        [("ImageJoinStreaming", join, {})]
    )  # by the container that asked for it
    assert status == "OK"


def test_no_function_runs_in_a_build(rights: Rights) -> None:
    image = api_pb2.Image(dockerfile_commands=["FROM scratch"], build_function=api_pb2.BuildFunction())
    assert rights.ask("ImageGetOrCreate", image=image)[0] == DENIED
    plain = api_pb2.Image(dockerfile_commands=["FROM scratch"])
    function_id = rights.function_id("echo", "rights-other")
    assert rights.ask("ImageGetOrCreate", image=plain, build_function_id=function_id)[0] == DENIED


def test_no_mount_gets_a_name(rights: Rights) -> None:
    """All apps of the server find mounts by name, the client's own code among them."""
    status, _, _ = rights.ask(
        "MountGetOrCreate", deployment_name="modal-client-mount-9.9.9", object_creation_type=_IF_MISSING
    )
    assert status == DENIED
    assert (
        rights.ask("MountGetOrCreate", object_creation_type=api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP)[0]
        == "OK"
    )


# Tokens in containers


def test_code_with_a_token_is_a_client(rights: Rights) -> None:
    assert set(rights.function("use_as_client").remote(*rights.token)) >= {"main", ELSEWHERE}
    token = {"x-modal-token-id": rights.token[0], "x-modal-token-secret": rights.token[1]}
    wrong = token | {"x-modal-token-secret": "as-wrong"}

    def statuses(by: str) -> list[str]:
        questions = [("TokensList", b"", token), ("TokensList", b"", wrong), ("TokenFlowCreate", b"", wrong)]
        return [status for status, _, _ in rights.function(by).remote(questions)]

    assert statuses("ask") == ["OK", "UNAUTHENTICATED", "UNAUTHENTICATED"]
    assert statuses("ask_restricted") == [DENIED] * 3
    # With a token it is no container any more.
    [(status, sentence, _)] = rights.function("ask").remote([("FunctionGetInputs", b"", token)])
    assert status == DENIED and "Only a container" in sentence


# What apps do


@pytest.mark.parametrize("environment", ["", ELSEWHERE])
def test_apps_use_the_objects_of_their_workspace(rights: Rights, environment: str) -> None:
    app = "rights" if environment else "rights-other"
    found = rights.function("use").remote(app, environment)
    expected = {"remote": "hi", "spawn": 2, "map": [1, 2, 3], "generator": [0, 1, 2], "large": 3 << 20}
    expected |= {"dict": "value", "queue": 7, "volume": True}
    if not environment:
        expected |= {"secret": "st-", "app": "ap-", "ephemeral": 1}
    assert found == expected
