"""The same app three times: twice in one environment under two names, and in another environment; and code in its containers that asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

import modal
import pytest
from modal.config import config

from stoker.rpc.methods import SERVICE, message_class
from tests.apps.rights import put_questions
from tests.conftest import RunningServer

ELSEWHERE = "elsewhere"


class Rights:
    """Asks the server as code in a container does."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        env = server.env
        os.environ |= {"MODAL_SERVER_URL": env["MODAL_SERVER_URL"], "MODAL_CONFIG_PATH": env["MODAL_CONFIG_PATH"]}
        config.override_locally("server_url", env["MODAL_SERVER_URL"])
        self.token = env["MODAL_TOKEN_ID"], env["MODAL_TOKEN_SECRET"]
        self.client = modal.Client.from_credentials(*self.token)

    def function(self, name: str, app: str = "rights", environment: str = "main") -> Any:
        return modal.Function.from_name(app, name, environment_name=environment, client=self.client)

    def ask(
        self, rpc: str, /, *, by: str = "ask", app: str = "rights", environment: str = "main", **fields: Any
    ) -> tuple[str, str, Any]:
        """The status, the sentence and the answer that a container gets. by: the function that asks."""
        question = (rpc, _request(rpc, fields), {})
        [(status, sentence, answer)] = self.function(by, app, environment).remote([question])
        return status, sentence, _answer(rpc, answer)

    def tell(self, rpc: str, /, **fields: Any) -> Any:
        """The answer that a client gets."""
        token = {"x-modal-token-id": self.token[0], "x-modal-token-secret": self.token[1]}
        url = urlparse(self.server.env["MODAL_SERVER_URL"])
        questions = [(rpc, _request(rpc, fields), token)]
        [(status, sentence, answer)] = asyncio.run(put_questions(questions, url.hostname or "", url.port or 0))
        assert status == "OK", f"{rpc}: {status} {sentence}"
        return _answer(rpc, answer)

    def app_id(self, app: str, environment: str = "main") -> str:
        app_id: str = self.tell("AppGetByDeploymentName", name=app, environment_name=environment).app_id
        assert app_id
        return app_id

    def function_id(self, name: str, app: str = "rights", environment: str = "main") -> str:
        function = self.function(name, app, environment)
        function.hydrate()
        return str(function.object_id)


def _request(rpc: str, fields: dict[str, Any]) -> bytes:
    message = message_class(SERVICE.methods_by_name[rpc].input_type.full_name)(**fields)
    return bytes(message.SerializeToString())


def _answer(rpc: str, encoded: bytes) -> Any:
    return message_class(SERVICE.methods_by_name[rpc].output_type.full_name).FromString(encoded)


@pytest.fixture(scope="session")
def rights(server: RunningServer) -> Iterator[Rights]:
    server.modal("environment", "create", ELSEWHERE)
    server.modal("environment", "update", ELSEWHERE, "--set-web-suffix", ELSEWHERE)
    for environment in ("main", ELSEWHERE):
        server.modal("secret", "create", "-e", environment, "rights-secret", f"WHERE={environment}")
        server.modal("dict", "create", "-e", environment, "rights-entries")
        server.modal("queue", "create", "-e", environment, "rights-line")
    server.modal("deploy", "rights.py")
    server.modal("deploy", "--name", "rights-other", "rights.py")
    server.modal("deploy", "-e", ELSEWHERE, "rights.py")
    yield Rights(server)
