"""Each cell of the table of RPCs is true, for each kind of caller: asked of a real server, over TCP and through containers' sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlparse

import pytest

from stoker.protocol.rights import Rights as Declared
from stoker.protocol.rpc import SERVICE, Caller, message_class, methods_of, rpc
from stoker.protocol.scopes import OWN_APP
from tests.apps.rights import put_questions
from tests.rights.conftest import Rights

_PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
_ROWS = {
    cells[0]: cells[1:]
    for line in _PAGE.read_text().split("## Commands")[0].splitlines()
    if len(cells := [cell.strip() for cell in line.split("|")[1:-1]]) == 5 and cells[0] in SERVICE.methods_by_name
}
_ADMITTED, _REFUSED, _NO_TOKEN, _NOT_OFFERED = "admitted", "refused", "no token", "not offered"
_REFUSALS = ("cannot be called from", "Only a container can call")  # of the RPC itself, not of what it asks for

_MOST_OF_STRANGER = 8  # requests over one connection: more that are refused look like a flood

Answers = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def answers(rights: Rights) -> Answers:
    """What became of an empty request of every RPC, by caller."""
    names = sorted(SERVICE.methods_by_name)
    empty = [(name, b"", {}) for name in names]
    token = {"x-modal-token-id": rights.token[0], "x-modal-token-secret": rights.token[1]}
    url = urlparse(rights.server.env["MODAL_SERVER_URL"])
    host, port = url.hostname or "", url.port or 0
    strangers: list[tuple[str, str, bytes]] = []
    for begin in range(0, len(empty), _MOST_OF_STRANGER):
        strangers += asyncio.run(put_questions(empty[begin : begin + _MOST_OF_STRANGER], host, port))
    asked = {
        "client": asyncio.run(put_questions([(name, b"", token) for name in names], host, port)),
        "stranger": strangers,
        "container": rights.function("ask").remote(empty),
        "restricted container": rights.function("ask_restricted").remote(empty),
    }
    return {
        caller: {name: _outcome(*answer[:2]) for name, answer in zip(names, answers, strict=True)}
        for caller, answers in asked.items()
    }


def _outcome(status: str, sentence: str) -> str:
    if status == "UNIMPLEMENTED" and "does not offer" in sentence:
        return _NOT_OFFERED
    if status == "UNAUTHENTICATED":
        return _NO_TOKEN
    if status == "PERMISSION_DENIED" and any(refusal in sentence for refusal in _REFUSALS):
        return _REFUSED
    return _ADMITTED


@pytest.mark.parametrize("name", sorted(SERVICE.methods_by_name))
def test_the_cells_are_true(answers: Answers, name: str) -> None:
    state, client, container, restricted = _ROWS[name]
    found = {caller: outcomes[name] for caller, outcomes in answers.items()}
    if state != "offered":
        assert set(found.values()) == {_NOT_OFFERED}
        return
    assert found == {
        "client": _REFUSED if client == "no" else _ADMITTED,
        "stranger": _ADMITTED if client == "anybody" else _NO_TOKEN,
        "container": _REFUSED if container == "no" else _ADMITTED,
        "restricted container": _REFUSED if restricted == "no" else _ADMITTED,
    }


def test_what_a_restricted_container_may_call_is_what_running_its_inputs_takes() -> None:
    """A new RPC gets here only by a decision."""
    assert {name for name, cells in _ROWS.items() if cells[3] not in ("", "no")} == {
        "BlobCreate",
        "BlobGet",
        "ClientHello",
        "ContainerCheckpoint",
        "ContainerHeartbeat",
        "ContainerHello",
        "ContainerServerLifecycleReady",
        "ContainerStop",
        "FunctionCallGetDataIn",
        "FunctionCallPutDataOut",
        "FunctionGetDynamicConcurrency",
        "FunctionGetInputs",
        "FunctionPutOutputs",
        "TaskResult",
        "VolumeCommit",
        "VolumeReload",
    }


def test_an_rpc_that_says_nothing_is_closed_to_containers() -> None:
    class New:
        @rpc("AppStop")
        async def stop(self, request: object, caller: Caller) -> object:
            raise AssertionError

    assert methods_of([New()])["AppStop"].rights == Declared(open=False, clients=True, containers=None, restricted=None)


def test_a_scope_must_fit_its_request() -> None:
    assert (
        "app_id" not in message_class(SERVICE.methods_by_name["DictGet"].input_type.full_name).DESCRIPTOR.fields_by_name
    )
    with pytest.raises(ValueError, match="DictGet has no field app_id"):
        rpc("DictGet", containers=OWN_APP)
