"""Who answers under which label, over deployments, runs and restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunningServer, start_server, stop_server
from tests.web.conftest import Answer, Web

_APP = """
import modal
app = modal.App({name!r})

@app.function(serialized=True, image=modal.Image.debian_slim())
@modal.asgi_app(label={label!r})
def {function}():
    async def answer(scope, receive, send):
        if scope["type"] == "http":
            if scope["path"].endswith("/slow"):
                import asyncio
                await asyncio.sleep(float(scope["query_string"].partition(b"&")[0]))
            await send({{"type": "http.response.start", "status": 200, "headers": []}})
            await send({{"type": "http.response.body", "body": {says!r}}})
    return answer
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A server that redirects soon."""
    monkeypatch.setenv("STOKER_WEB_REDIRECT_SECONDS", "1")
    running = start_server(tmp_path / "data", "process")
    yield Web(running, "any")
    stop_server(running)


def test_labels(own: Web, tmp_path: Path) -> None:
    server = own.server

    def deploy(name: str, label: str, function: str = "f", says: bytes = b"hi", check: bool = True) -> str:
        program = tmp_path / "app_file.py"
        program.write_text(_APP.format(name=name, label=label, function=function, says=says))
        done = server.modal("deploy", str(program), check=check)
        return done.stdout + done.stderr

    def answer(label: str, path: str = "/") -> Answer:
        answer = own.ask("GET", f"/w/{label}{path}")
        while answer.status == 303:
            answer = own.ask("GET", answer.headers["location"])
        return answer

    assert "/w/local--api" in deploy("first", "api")
    assert answer("local--api").text == "hi"

    # Another deployed app may not take it, and what it tried changed nothing.
    refused = deploy("second", "api", check=False)
    assert "'local--api'" in refused
    assert "'first'" in refused
    assert answer("local--api").text == "hi"

    # The same app may give it to another of its functions, and its URL means the new one then.
    deploy("first", "api", function="g", says=b"new")
    assert answer("local--api").text == "new"

    # A run gets a label of its own, for as long as it runs.
    run = _APP.format(name="first", label="api", function="f", says=b"dev") + (
        "\nimport urllib.request\n"
        "with app.run():\n"
        "    url = f.get_web_url()\n"
        "    print(url, urllib.request.urlopen(url).read().decode())\n"
    )
    url, said = server.python(run).stdout.split()
    assert url.endswith("/w/local--api-dev")
    assert said == "dev"
    assert answer("local--api-dev").status == 404
    assert answer("local--api").text == "new"

    # A name too long for DNS is cut, and stays unique.
    deploy("x" * 60, "", function="long_function_name")
    program = f"import modal; print(modal.Function.from_name({'x' * 60!r}, 'long_function_name').get_web_url())"
    label = server.python(program).stdout.strip().rpartition("/")[2]
    assert len(label) <= 63
    assert answer(label).text == "hi"

    # Whoever waits too long is told where to ask for the answer; it is given once.
    first = own.ask("GET", "/w/local--api/slow?2&keep=1")
    assert first.status == 303
    assert "keep=1" in first.headers["location"]
    assert "__modal_function_call_id=fc-" in first.headers["location"]
    later = answer("local--api", "/slow?2")
    assert later.text == "new"
    second = own.ask("GET", first.headers["location"])
    while second.status == 303:
        second = own.ask("GET", second.headers["location"])
    assert second.text == "new"
    assert own.ask("GET", first.headers["location"]).status == 404
    stranger = first.headers["location"].replace("local--api", label)
    assert own.ask("GET", stranger).status == 404

    # All of it survives a restart.
    stop_server(server)
    start_server(server.data, "process")
    assert answer("local--api").text == "new"

    server.modal("app", "stop", "first", "--yes", check=False)
    assert answer("local--api").status == 404
    assert "/w/local--api" in deploy("second", "api")


def test_the_same_app_in_two_environments(server: RunningServer, tmp_path: Path) -> None:
    web = Web(server, "twice")
    program = tmp_path / "app_file.py"
    look = "import modal; print(modal.Function.from_name('twice', 'f', environment_name='Second').get_web_url())"
    server.modal("environment", "create", "Second")
    try:
        for environment in ("main", "Second"):
            program.write_text(_APP.format(name="twice", label="", function="f", says=environment.encode()))
            server.modal("deploy", str(program), "--env", environment)
        assert web.ask("GET", "/w/local--twice-f/").text == "main"
        assert web.ask("GET", "/w/local-second--twice-f/").text == "Second"
        # A new suffix counts for what is deployed already.
        server.modal("environment", "update", "Second", "--set-web-suffix", "b")
        assert server.python(look).stdout.strip().endswith("/w/local-b--twice-f")
        assert web.ask("GET", "/w/local-b--twice-f/").text == "Second"
        assert web.ask("GET", "/w/local-second--twice-f/").status == 404
    finally:
        server.modal("environment", "delete", "Second", "--yes", check=False)
        server.modal("app", "stop", "twice", "--yes", check=False)
    assert web.ask("GET", "/w/local-b--twice-f/").status == 404
