"""Failed authentications on a real server: refused, logged, counted; whoever guesses is slowed down, others are not."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlparse

import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_grpc

from tests.conftest import RunningServer


class Guessed:
    """A server, and a token of its own for this test."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.info = json.loads((server.data / "server.json").read_text())
        env = server.env
        self.own = {"Modal-Token-Id": env["MODAL_TOKEN_ID"], "Modal-Token-Secret": env["MODAL_TOKEN_SECRET"]}
        made = json.loads(self.http("/_stoker/tokens", self.own, b"{}")[1])
        self.id, self.secret = made["id"], made["secret"]

    def http(self, path: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, str, Any]:
        request = urllib.request.Request(self.info["http_url"] + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), error.headers

    def channel(self) -> Channel:
        url = urlparse(self.info["url"])
        return Channel(url.hostname, url.port)


async def say_hello(channel: Channel, token_id: str, secret: str) -> str:
    """ "" or the sentence of the refusal."""
    metadata = {"x-modal-token-id": token_id, "x-modal-token-secret": secret}
    try:
        await api_grpc.ModalClientStub(channel).ClientHello(Empty(), metadata=metadata, timeout=30)
    except GRPCError as error:
        assert error.status is Status.UNAUTHENTICATED
        return error.message or ""
    return ""


@pytest.fixture
def guessed(server: RunningServer) -> Guessed:
    return Guessed(server)


def test_guessing_over_grpc_is_slowed_down(guessed: Guessed) -> None:
    async def main() -> None:
        connected, guessing, late = (guessed.channel() for _ in range(3))
        assert await say_hello(connected, guessed.id, guessed.secret) == ""
        refusals = [await say_hello(guessing, guessed.id, f"as-{number}") for number in range(40)]
        assert "its secret is wrong" in refusals[0] and "Too many wrong tokens" in refusals[-1]
        # Who was there before goes on; a newcomer with the same token waits for a moment; other tokens are not touched.
        assert await say_hello(connected, guessed.id, guessed.secret) == ""
        own = guessed.own
        assert await say_hello(late, own["Modal-Token-Id"], own["Modal-Token-Secret"]) == ""
        deadline = time.monotonic() + 60
        while await say_hello(late, guessed.id, guessed.secret):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        for channel in (connected, guessing, late):
            channel.close()

    asyncio.run(main())


def test_guessing_over_http_is_slowed_down_logged_and_counted(guessed: Guessed) -> None:
    def guess(secret: str) -> tuple[int, str, Any]:
        return guessed.http("/_stoker/status", {"Modal-Token-Id": guessed.id, "Modal-Token-Secret": secret})

    assert guess("as-first-guess")[0] == 401
    answers = [guess(f"as-guess-{number}") for number in range(40)]
    status, sentence, headers = answers[-1]
    assert status == 429 and "Too many wrong tokens" in sentence and 1 <= int(headers["Retry-After"]) <= 3
    assert guessed.http("/_stoker/status", guessed.own)[0] == 200
    log = (guessed.server.data / "logs" / "server.log").read_text()
    assert guessed.secret not in log and "as-first-guess" not in log and "as-guess-" not in log
    lines = [json.loads(line) for line in log.splitlines() if guessed.id in line]
    assert {(line["event"], line["peer"], line["door"], line["reason"]) for line in lines} == {
        ("authentication failed", "127.0.0.1", "http", "wrong_secret")
    }
    metrics = guessed.http("/metrics", {})[1].splitlines()
    counts = {
        line.split()[0]: float(line.split()[1]) for line in metrics if line.startswith("stoker_failed_authentications")
    }
    assert counts['stoker_failed_authentications_total{door="http",reason="wrong_secret"}'] >= 20
    assert counts['stoker_failed_authentications_total{door="http",reason="too_many"}'] >= 1


def test_the_form_of_a_token_request_is_no_way_around(guessed: Guessed) -> None:
    async def begin() -> str:
        from modal_proto import api_pb2

        channel = guessed.channel()
        flow = await api_grpc.ModalClientStub(channel).TokenFlowCreate(api_pb2.TokenFlowCreateRequest())
        channel.close()
        return str(urlparse(flow.web_url).path)

    page = asyncio.run(begin())
    answers = [
        guessed.http(page, {}, f"code=X&token_id={guessed.id}&token_secret=as-form-{number}".encode())
        for number in range(30)
    ]
    assert {status for status, _, _ in answers} == {401}
    assert "Too many wrong tokens" in answers[-1][1] and "its secret is wrong" in answers[0][1]
