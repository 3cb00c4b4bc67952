"""The same apps in real sandboxes, with images that install FastAPI."""

from __future__ import annotations

import json

from websockets.sync.client import connect

from tests.conftest import RunningServer
from tests.web.conftest import MIB, Web
from tests.web.test_sessions import ask, start_sessions


def test_endpoints(sandboxes: RunningServer) -> None:
    sandboxes.modal("deploy", "web.py", timeout=280)
    web = Web(sandboxes, "web")
    body = json.dumps({"prompt": "cat", "steps": 7})
    answer = web.ask("POST", web.path("inference-api"), body, {"Content-Type": "application/json"})
    assert answer.json() == {"filename": "/outputs/cat-7.mp4"}
    assert web.get("inference-api", "/docs").status == 200
    assert web.get("site", "/events?n=2&pause=0.1").text == "data: 0\n\ndata: 1\n\n"
    assert web.ask("POST", web.path("site", "/upload"), b"u" * (20 * MIB)).json() == {"size": 20 * MIB}
    assert len(web.get("bare", "/whole?50").body) == 50 * MIB
    with connect(web.base.replace("http", "ws") + web.path("site", "/echo")) as socket:
        socket.send("hello")
        assert socket.recv() == "HELLO"
    assert web.ask("POST", web.path("flasky", "/p"), b"w").text == "POST w"
    assert web.get("files", "/hostname").status == 200


def test_servers(sandboxes: RunningServer) -> None:
    sandboxes.modal("deploy", "server.py", timeout=280)
    servers = Web(sandboxes, "server")
    assert servers.get("open", "/a?b=c").text.startswith("GET /a?b=c 0 ")
    assert len(servers.get("open", "/download=50").body) == 50 * MIB
    first, second = start_sessions(servers, 2, idle=900)  # of two containers' worth: each container takes two
    third = start_sessions(servers, 1, idle=900)[0]
    answers = {token: {ask(servers, token).status for _ in range(3)} for token in (first, second, third)}
    assert set.union(*answers.values()) == {200}
    assert sum(int(f["containers"]) for f in servers.status()["functions"] if f["name"] == "Sticky") == 2
