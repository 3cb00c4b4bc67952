"""Tokens: who may call, how somebody without a token gets one, and the tokens of web endpoints."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import modal
import pytest
from grpclib.exceptions import GRPCError
from modal.client import Client
from modal_proto import api_pb2

from stoker.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from stoker.services.access import token_flows
from stoker.services.access import tokens as token_service
from stoker.services.access.attempts import INSIDE
from stoker.services.access.token_flows import TokenFlows
from stoker.services.access.tokens import Tokens
from stoker.store.database import Database

from .conftest import StateServer
from .raw import call


def fetch(
    url: str, token: tuple[str, str] | None = None, method: str = "GET", body: bytes | None = None
) -> tuple[int, str, Any]:
    headers = {"Modal-Token-Id": token[0], "Modal-Token-Secret": token[1]} if token else {}
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


@pytest.mark.parametrize("lifetime", [0.0, -1.0, float("nan"), float("inf")])
def test_a_token_is_good_for_a_time_that_ends(state: StateServer, lifetime: float) -> None:
    with pytest.raises(InvalidArgument, match="cannot be good for"):
        state.run(state.tokens.create("odd", lifetime))


def test_disabled_expired_and_deleted_tokens_open_nothing(state: StateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = state.tokens
    token = state.run(tokens.create("laptop"))
    tokens.authenticate(*token, INSIDE)
    with pytest.raises(Unauthenticated, match="not known"):
        tokens.authenticate(token[0], "as-wrong", INSIDE)
    state.run(tokens.disable(["laptop"]))
    with pytest.raises(Unauthenticated, match="disabled"):
        tokens.authenticate(*token, INSIDE)
    state.run(tokens.enable([token[0]]))
    tokens.authenticate(*token, INSIDE)
    state.run(tokens.delete(token[0]))
    with pytest.raises(Unauthenticated, match="not known"):
        tokens.authenticate(*token, INSIDE)
    short = state.run(tokens.create("short", 60))
    tokens.authenticate(*short, INSIDE)
    later = token_service.time.time() + 61
    monkeypatch.setattr(token_service.time, "time", lambda: later)
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.authenticate(*short, INSIDE)


def test_a_token_that_could_not_be_deleted_can_be_deleted_again(
    state: StateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be back with the next start of the server, while everybody took it for gone."""

    async def full(work: object) -> None:
        raise ResourceExhausted("The server's disk is full.")

    token, proxy_token = state.run(state.tokens.create("stolen")), state.run(state.proxy_tokens.create("stolen"))
    with monkeypatch.context() as patch:
        patch.setattr(state.database, "write", full)
        for failing in (state.tokens.delete(token[0]), state.proxy_tokens.delete(proxy_token[0])):
            with pytest.raises(ResourceExhausted):
                state.run(failing)
    with pytest.raises(Unauthenticated):
        state.tokens.authenticate(*token, INSIDE)
    state.run(state.tokens.delete(token[0]))
    state.run(state.proxy_tokens.delete(proxy_token[0]))
    assert token[0] not in {t.id for t in Tokens(state.database).all()}
    with pytest.raises(NotFound):
        state.proxy_tokens.get(proxy_token[0])


def test_nobody_locks_everybody_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        tokens = Tokens(database)
        one, two = await tokens.create("one"), await tokens.create("two")
        for change in (tokens.disable([one[0], two[0]]),):
            with pytest.raises(FailedPrecondition, match="No token that works would be left"):
                await change
        assert tokens.works(*one) and tokens.works(*two)
        await tokens.disable([one[0]])
        for change in (tokens.disable([two[0]]), tokens.delete(two[0])):
            with pytest.raises(FailedPrecondition):
                await change
        await tokens.delete(one[0])
        assert tokens.works(*two)
        await database.close()

    asyncio.run(scenario())


def test_secrets_are_stored_as_hashes_and_the_last_use_survives(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        tokens = Tokens(database)
        token_id, secret = await tokens.create("one")
        assert tokens.find("one").last_used_at is None
        tokens.authenticate(token_id, secret, INSIDE)
        used = tokens.find("one").last_used_at
        assert used is not None and Tokens(database).find("one").last_used_at is None  # written late
        await tokens.save_uses()
        again = Tokens(database)
        assert again.find("one").last_used_at == used and again.works(token_id, secret)
        assert secret not in repr(again.all())
        await database.close()
        assert not [p for p in tmp_path.iterdir() if secret.encode() in p.read_bytes()]

    asyncio.run(scenario())


def test_names(state: StateServer) -> None:
    first, second = (state.run(state.tokens.create("twin"))[0] for _ in range(2))
    with pytest.raises(InvalidArgument, match=f"{first}, {second}"):
        state.tokens.find("twin")
    with pytest.raises(NotFound):
        state.tokens.find("nobody")
    for name in ("x" * 65, "line\nbreak"):
        with pytest.raises(InvalidArgument):
            state.run(state.tokens.create(name))


def test_the_http_interface_wants_a_token(state: StateServer) -> None:
    url = state.http_url + "/_stoker/tokens"
    for method, path in (("GET", ""), ("POST", ""), ("POST", "/approve"), ("POST", "/x/disable"), ("DELETE", "/x")):
        assert fetch(url + path, None, method)[0] == 401
        assert fetch(url + path, (state.token[0], "as-wrong"), method)[0] == 401
    status, text, _ = fetch(url, state.token, "POST", b'{"name": "by http", "lifetime_seconds": 60}')
    made = json.loads(text)
    assert status == 201 and made["name"] == "by http" and made["expires_at"] > made["created_at"]
    assert state.tokens.works(made["id"], made["secret"])
    status, text, _ = fetch(url, state.token)
    assert made["id"] in text and made["secret"] not in text and "sha256" not in text
    assert fetch(f"{url}/by%20http/disable", state.token, "POST")[0] == 200
    assert not state.tokens.works(made["id"], made["secret"])
    assert fetch(f"{url}/{made['id']}", state.token, "DELETE")[0] == 200
    assert fetch(f"{url}/{made['id']}", state.token, "DELETE")[0] == 404
    for body in (b"[]", b"{", b'{"name": 1}', b'{"lifetime_seconds": "x"}', b'{"lifetime_seconds": -1}'):
        assert fetch(url, state.token, "POST", body)[0] == 400


def begin(state: StateServer) -> Any:
    return call(state, "TokenFlowCreate", api_pb2.TokenFlowCreateRequest(expires_in_seconds=3_600), anonymous=True)


def wait(state: StateServer, flow: Any, timeout: float = 0.0, secret: str | None = None) -> Any:
    return call(
        state,
        "TokenFlowWait",
        api_pb2.TokenFlowWaitRequest(
            timeout=timeout,
            token_flow_id=flow.token_flow_id,
            wait_secret=flow.wait_secret if secret is None else secret,
        ),
        anonymous=True,
    )


def test_a_request_is_approved_by_its_code(state: StateServer) -> None:
    flow = begin(state)
    assert wait(state, flow).timeout
    for secret in ("", "wrong"):
        with pytest.raises(GRPCError, match="Only the client that asked"):
            wait(state, flow, secret=secret)
    url = state.http_url + "/_stoker/tokens/approve"
    assert fetch(url, None, "POST", json.dumps({"code": flow.code}).encode())[0] == 401
    assert fetch(url, state.token, "POST", b'{"code": "BBBB-BBBB"}')[0] == 404
    assert wait(state, flow).timeout
    code = flow.code.lower().replace("-", " ")
    assert fetch(url, state.token, "POST", json.dumps({"code": code}).encode())[0] == 201
    assert fetch(url, state.token, "POST", json.dumps({"code": code}).encode())[0] == 409
    given = wait(state, flow)
    assert state.tokens.works(given.token_id, given.token_secret)
    token = state.tokens.find(given.token_id)
    assert token.name == "approved by test" and token.expires_at is not None


def test_the_page_wants_the_code_and_a_token(state: StateServer) -> None:
    flow = begin(state)
    assert flow.token_flow_id not in flow.web_url and flow.wait_secret not in flow.web_url
    status, text, headers = fetch(flow.web_url)
    assert status == 200 and flow.code not in text and "<form" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    other = begin(state)

    def submit(code: str, token_id: str, secret: str) -> tuple[int, str]:
        fields = {"code": code, "token_id": token_id, "token_secret": secret}
        return fetch(flow.web_url, None, "POST", urllib.parse.urlencode(fields).encode())[:2]

    assert submit(flow.code, state.token[0], "as-wrong")[0] == 401
    assert submit(flow.code, "<script>", "x")[1].count("<script>") == 0
    assert submit("BBBB-BBBB", *state.token)[0] == 400
    assert submit(other.code, *state.token)[0] == 400
    assert fetch(flow.web_url, None, "POST", b"x=" + b"y" * 100_000)[0] == 400
    assert wait(state, flow).timeout and wait(state, other).timeout
    status, text = submit(flow.code, *state.token)
    given = wait(state, flow)
    assert status == 200 and given.token_id in text and given.token_secret not in text
    assert wait(state, other).timeout
    assert fetch(state.http_url + "/_stoker/token-requests/unknown")[0] == 404


def test_requests_are_few_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/db")
        flows = TokenFlows(Tokens(database))
        now = [1_000.0]
        monkeypatch.setattr(token_flows.time, "monotonic", lambda: now[0])
        first = flows.begin(None)
        for _ in range(19):
            flows.begin(None)
        with pytest.raises(ResourceExhausted):
            flows.begin(None)
        now[0] += 61
        flows.begin(None)
        with pytest.raises(PermissionDenied):
            await flows.wait(first.id, "wrong", 0)
        now[0] += token_flows.LIFETIME
        for look in (lambda: flows.by_code(first.code), lambda: flows.by_page(first.page)):
            with pytest.raises(NotFound):
                look()
        with pytest.raises(NotFound, match="is over"):
            await flows.wait(first.id, first.wait_secret, 0)
        # Approved by two at once: one token.
        flow = flows.begin(None)
        done = await asyncio.gather(*(flows.approve(flow, "x") for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(d, str) for d in done) == 1
        monkeypatch.undo()
        await database.close()

    asyncio.run(scenario())


def test_modal_token_new(state: StateServer, tmp_path: Path) -> None:
    """The client's own command, from nothing to a profile that works."""
    config = tmp_path / "modal.toml"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MODAL_")}
    env = clean | {
        "MODAL_SERVER_URL": f"http://127.0.0.1:{state.port}",
        "MODAL_CONFIG_PATH": str(config),
        "MODAL_PROFILE": "new",
        "BROWSER": "true",
        "COLUMNS": "200",
    }
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "modal", "token", "new", "--no-verify"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if "Enter this code:" in line:
            code = line.split("Enter this code:")[1].strip()
            body = json.dumps({"code": code}).encode()
            assert fetch(state.http_url + "/_stoker/tokens/approve", state.token, "POST", body)[0] == 201
    assert process.wait(60) == 0, shown
    written = config.read_text()
    token = next(t for t in state.tokens.all() if t.id in written)
    assert token.name == "approved by test" and "connected to the local workspace" in shown


def test_proxy_tokens(state: StateServer, client: Client) -> None:
    modal.Environment.objects.create("proxied", client=client)
    main, proxied = state.environments.resolve("main").id, state.environments.resolve("proxied").id
    made = state.run(state.proxy_tokens.create("hooks"))
    check = partial(state.proxy_tokens.check, peer=INSIDE)
    assert check(*made, main) and check(*made, proxied)
    assert not check(made[0], "ws-wrong", main) and not check("wk-unknown", made[1], main)
    assert not state.tokens.works(*made)
    state.run(state.proxy_tokens.allow(made[0], proxied))
    assert check(*made, proxied) and not check(*made, main)
    state.run(state.proxy_tokens.revoke(made[0], proxied))
    assert not check(*made, proxied) and not check(*made, main)
    everywhere = state.run(state.proxy_tokens.create("all"))
    state.run(state.proxy_tokens.revoke(everywhere[0], proxied))
    assert check(*everywhere, main) and not check(*everywhere, proxied)
    modal.Environment.objects.delete("proxied", client=client)
    with pytest.raises(NotFound):
        state.run(state.proxy_tokens.allow(made[0], proxied))
    state.run(state.proxy_tokens.delete(everywhere[0]))
    assert not check(*everywhere, main)
