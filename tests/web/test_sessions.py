"""@modal.sessioned(): requests with the token of a session go to the container that holds it."""

from __future__ import annotations

import json
import threading

from tests.web.conftest import Answer, Web, until

_START = """
import json, modal
sessions = modal.Server.from_name("server", "Sticky").sessions
print(json.dumps([sessions.start(idle_timeout={idle}).token for _ in range({count})]))
"""
_TERMINATE = """
import modal
sessions = modal.Server.from_name("server", "Sticky").sessions
for _ in range(2):  # the second time there is none any more
    sessions.terminate({token!r})
"""


def start_sessions(servers: Web, count: int, idle: int = 60) -> list[str]:
    done = servers.server.python(_START.format(idle=idle, count=count))
    tokens: list[str] = json.loads(done.stdout.splitlines()[-1])
    return tokens


def ask(servers: Web, token: str, path: str = "/") -> Answer:
    headers = {"Modal-Authorization": f"Bearer {token}"} if token else {}
    return servers.ask("GET", servers.path("sticky", path), headers=headers)


def _running(servers: Web) -> int:
    return sum(int(f["running"]) for f in servers.status()["functions"] if f["name"] == "Sticky")


def test_a_session_from_its_start_to_its_end(servers: Web) -> None:
    assert servers.ask("POST", servers.path("sticky", "/_modal/sessions/start")).status == 401  # no token of the app
    first, second = start_sessions(servers, 2)
    assert first != second
    assert _running(servers) == 2  # a session is load, so its container stays
    answers = [ask(servers, first) for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    for wrong in ("", "nobody", first[:-1]):
        refused = ask(servers, wrong)
        assert refused.status == 401
        assert "sessions.start()" in refused.text

    slow = threading.Thread(target=lambda: answers.append(ask(servers, first, "/slow=2")))
    slow.start()
    until(lambda: servers.metric("stoker_http_open_requests") == 1)
    servers.server.python(_TERMINATE.format(token=first))
    assert ask(servers, first).status == 401
    slow.join()
    assert answers[-1].status == 200  # what was under way went on
    assert ask(servers, second).status == 200
    until(lambda: _running(servers) == 1)
    servers.server.python(_TERMINATE.format(token=second))


def test_an_idle_session_ends_and_a_full_server_makes_the_next_wait(servers: Web) -> None:
    tokens = start_sessions(servers, 2, idle=3)
    assert ask(servers, tokens[0]).status == 200
    third = start_sessions(servers, 1)[0]  # returns when one of the others has ended
    assert 401 in [ask(servers, token).status for token in tokens]
    assert ask(servers, third).status == 200
    servers.server.python(_TERMINATE.format(token=third))
    until(lambda: _running(servers) == 0)


def test_what_a_session_may_not_be(servers: Web) -> None:
    made = json.loads(servers.server.modal("workspace", "proxy-tokens", "create", "--name", "s", "--json").stdout)
    token = {"Modal-Key": made["Modal-Key"], "Modal-Secret": made["Modal-Secret"]}
    start, end = (servers.path("sticky", f"/_modal/sessions/{what}") for what in ("start", "terminate"))
    assert servers.ask("GET", start, headers=token).status == 405
    for idle in ("0", "-1", "soon", "9999999", "1" * 5000):
        headers = token | {"x-modal-server-session-idle-timeout": idle}
        assert servers.ask("POST", start, headers=headers).status == 400
    assert servers.ask("POST", end, headers=token | {"x-modal-server-session-token": "none"}).status == 404
    keyed = token | {"x-idempotency-key": "once"}
    same = [servers.ask("POST", start, headers=keyed).json() for _ in range(2)]
    assert same[0] == same[1]
    ended = servers.ask("POST", end, headers=token | {"x-modal-server-session-token": same[0]["token"]})
    assert ended.status == 200


def test_a_session_ends_with_its_container(servers: Web) -> None:
    token = start_sessions(servers, 1)[0]
    for container in servers.status()["containers"]:
        if container["id"] in _containers(servers):
            servers.server.modal("container", "stop", "--yes", container["id"])
    until(lambda: ask(servers, token).status == 401)
    until(lambda: _running(servers) == 0)


def _containers(servers: Web) -> set[str]:
    sticky = {f["id"] for f in servers.status()["functions"] if f["name"] == "Sticky"}
    return {c["id"] for c in servers.status()["containers"] if c["function"] in sticky}
