"""The same apps in real sandboxes, with images that install FastAPI."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.conftest import RunningServer, free_port, start_server, stop_server
from tests.web.certificates import Authority
from tests.web.conftest import MIB, Web, until
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


def test_keys_stay_with_their_containers(sandboxes: RunningServer) -> None:
    sandboxes.modal("deploy", "server.py", timeout=280)
    servers = Web(sandboxes, "server")

    def keep(containers: int) -> None:
        scale = f"modal.Server.from_name('server', 'Open').update_autoscaler(min_containers={containers})"
        sandboxes.python(f"import modal; {scale}")

    def containers() -> dict[str, str]:
        ids = {f["id"] for f in servers.status()["functions"] if f["name"] == "Open"}
        return {c["id"]: c["state"] for c in servers.status()["containers"] if c["function"] in ids}

    def placed(header: str, count: int) -> dict[str, str]:
        keys = [f"user-{n}" for n in range(count)]
        return {key: servers.get("open", "/", **{header: key}).headers["x-task"] for key in keys}

    # Forty keys, of which some belong to each container, whatever its id.
    keep(3)
    until(lambda: list(containers().values()).count("running") == 3, 200)
    first = placed("Modal-Routing-Affinity-Key", 40)
    assert set(first.values()) == set(containers())
    assert placed("Modal-Routing-Affinity-Key", 40) == placed("Modal-Session-ID", 40) == first
    sandboxes.modal("container", "stop", "--yes", first["user-0"])
    until(lambda: first["user-0"] not in containers() and list(containers().values()).count("running") == 3, 200)
    after = placed("Modal-Routing-Affinity-Key", 40)
    (new,) = set(containers()) - set(first.values())
    # The keys of the container that is gone went to all others, and the new one took some of each; the rest stayed.
    assert all(after[key] in (task, new) for key, task in first.items() if task != first["user-0"])
    assert any(after[key] == task for key, task in first.items())
    keep(0)


@pytest.mark.timeout(600)  # four starts of the server
def test_containers_reach_what_they_are_told(
    sandboxes: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = Inside(sandboxes)
    told = inside.look()
    for url in (told["site"], told["files"], told["found"]):
        assert url.startswith("http://172.21.0.1:"), told
    assert told["site"] == told["found"] and told["site"].endswith("/w/local--reach-site")
    base = told["site"].partition("/w/")[0]
    site, files, absent = inside.ask(told["site"] + "/a", told["files"] + "/", base + "/w/local--nobody/")
    assert site == [200, "site /w/local--reach-site/a"]
    assert files[0] == 200 and "Directory listing" in files[1]
    assert absent[0] == 404 and "local--nobody" in absent[1]
    assert inside.message(told["site"]) == "hello"
    # What clients reach is not there, not even to be refused.
    paths = ("/_stoker/status", "/_stoker/tokens", "/metrics", "/healthz", "/_stoker/token-requests/x")
    assert {status for status, _ in inside.ask(*(base + path for path in paths))} == {404}
    # Without a token nobody comes in, from inside as from outside.
    inside.forget_token()
    assert inside.ask(told["site"])[0][0] == 401

    # URLs are part of what a memory snapshot holds: they do not change with a restart, though all other ports do here.
    restored = inside.look()
    stop_server(sandboxes)
    start_server(sandboxes.data, "runsc", "--fake-gpus", "H100:1,L40S:1")
    assert inside.look() == restored

    # URLs that mean something to everybody stay as they are, and are reached from containers as well.
    inside.take_token()
    authority, address = Authority(tmp_path), own_address()
    cert, key = authority.issue(address)
    port = free_port()
    stop_server(sandboxes)
    with monkeypatch.context() as settings:
        settings.setenv("STOKER_HOST", address)
        settings.setenv("STOKER_TLS_CERT", str(cert))
        settings.setenv("STOKER_TLS_KEY", str(key))
        settings.setenv("STOKER_TLS_PORT", str(port))
        start_server(sandboxes.data, "runsc", "--fake-gpus", "H100:1,L40S:1")
        try:
            told = inside.look()
            assert told["site"] == told["found"] == f"https://{address}:{port}/w/local--reach-site"
            info = json.loads((sandboxes.data / "server.json").read_text())
            plain = info["http_url"]
            assert plain.startswith(f"http://{address}:")
            tried = (told["site"], told["files"], f"{plain}/w/local--reach-site", f"{plain}/_stoker/status")
            *answers, status, secure, grpc = inside.ask(
                *tried, f"https://{address}:{port}/_stoker/status", info["url"], root=authority.root.read_text()
            )
            assert [answer[0] for answer in answers] == [200, 200, 200]
            assert [status[0], secure[0], grpc[0]] == [404, 404, 0]
        finally:
            stop_server(sandboxes)
    start_server(sandboxes.data, "runsc", "--fake-gpus", "H100:1,L40S:1")


class Inside:
    """The app reach.py, whose containers look at the server from their side."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.take_token()
        server.modal("deploy", "reach.py", timeout=280)

    def take_token(self) -> None:
        made = self._server.modal("workspace", "proxy-tokens", "create", "--json").stdout
        token = json.loads(made)
        self._secret(token["Modal-Key"], token["Modal-Secret"])

    def forget_token(self) -> None:
        self._secret("wk-none", "ws-none")

    def look(self) -> dict[str, str]:
        """Of a container that has just started."""
        self._stop_containers()
        told: dict[str, str] = self._call("look", "()")
        return told

    def ask(self, *urls: str, root: str = "") -> list[list[Any]]:
        answers: list[list[Any]] = self._call("ask", f"({list(urls)!r}, {root!r})")
        return answers

    def message(self, url: str) -> str:
        return str(self._call("first_message", f"({url!r})"))

    def _call(self, function: str, arguments: str) -> Any:
        called = f"modal.Function.from_name('reach', {function!r}).remote{arguments}"
        return json.loads(self._server.python(f"import json, modal; print(json.dumps({called}))").stdout)

    def _secret(self, key: str, secret: str) -> None:
        self._server.modal("secret", "create", "--force", "reach-token", f"KEY={key}", f"SECRET={secret}")
        self._stop_containers()

    def _stop_containers(self) -> None:
        web = Web(self._server, "reach")
        while running := [c["id"] for c in web.status()["containers"] if c["app"] == "reach"]:
            for container in running:
                self._server.modal("container", "stop", "--yes", container, check=False)  # it may just have ended


def own_address() -> str:
    """An address of this machine that is not loopback."""
    words = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout.split()
    found = [words[i + 1].split("/")[0] for i, word in enumerate(words) if word == "inet"]
    return next(address for address in found if not address.startswith(("127.", "172.21.")))
