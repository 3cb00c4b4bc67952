"""Clients that stay connected and stop sending the body they announced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import start_server, stop_server
from tests.web.conftest import Web

_APP = """
import subprocess, sys
import modal
app = modal.App("silence")
SERVER = '''
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        self.do_POST()
    def do_POST(self):
        if self.path.endswith("/early"):
            self.wfile.write(b"HTTP/1.1 200 OK\\\\r\\\\nContent-Length: 9\\\\r\\\\n\\\\r\\\\nearly")
            self.wfile.flush()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"%4d" % len(body))
http.server.ThreadingHTTPServer(("0.0.0.0", 8391), Handler).serve_forever()
'''

@app.server(port=8391, unauthenticated=True, max_concurrency=1, max_containers=1)
class Narrow:
    @modal.enter()
    def start(self):
        self.process = subprocess.Popen([sys.executable, "-c", SERVER])

    @modal.exit()
    def stop(self):
        self.process.kill()

@app.function(timeout=120)
@modal.asgi_app()
def streams():
    async def asgi(scope, receive, send):
        if scope["path"].endswith("/early"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"early", "more_body": True})
        while True:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
    return asgi
"""


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    place: Path = tmp_path_factory.mktemp("silence")
    (place / "silence.py").write_text(_APP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOKER_WEB_SILENCE_SECONDS", "1")
        server = start_server(place / "data", "process")
    server.modal("deploy", str(place / "silence.py"))
    yield Web(server, "silence")
    stop_server(server)


def _left_unfinished(web: Web, target: str) -> bytes:
    """All that comes for a request whose body stops in the middle, until the connection ends."""
    with web.raw() as peer:
        peer.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
        answer = b""
        try:
            while more := peer.recv(65536):
                answer += more
        except TimeoutError:
            pytest.fail(f"the connection stays; it brought {answer!r}")
        return answer


@pytest.mark.parametrize("function", ["narrow", "streams"])
def test_a_client_that_falls_silent_gets_408_and_its_place_is_free(silent: Web, function: str) -> None:
    answer = _left_unfinished(silent, silent.path(function, "/"))
    assert answer.startswith(b"HTTP/1.1 408 ") and b"Nothing was received for 1 seconds" in answer
    assert silent.ask("POST", silent.path(function, "/"), b"x").status == 200


@pytest.mark.parametrize("function", ["narrow", "streams"])
def test_an_answer_that_has_begun_breaks_off(silent: Web, function: str) -> None:
    answer = _left_unfinished(silent, silent.path(function, "/early"))
    assert answer.startswith(b"HTTP/1.1 200 ") and b"early" in answer
    assert silent.ask("POST", silent.path(function, "/"), b"x").status == 200
