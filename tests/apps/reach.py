"""An app whose functions ask its own web endpoints, at the URLs that they are told."""

import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import uuid

import modal

app = modal.App("reach")
image = modal.Image.debian_slim(python_version="3.11")
secret = modal.Secret.from_name("reach-token", required_keys=["KEY", "SECRET"])
LOADED = uuid.uuid4().hex  # the same in all containers that came from one snapshot


@app.function(image=image)
@modal.asgi_app(requires_proxy_auth=True)
def site():
    async def answer(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "hello"})
            await receive()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"site {scope['path']}".encode()})

    return answer


@app.server(image=image, port=8311, unauthenticated=True)
class Files:
    @modal.enter()
    def start(self):
        self.process = subprocess.Popen([sys.executable, "-m", "http.server", "8311"])


@app.function(image=image, secrets=[secret], enable_memory_snapshot=True, scaledown_window=2)
def look() -> dict:
    """What a container is told about its own app, and about an app that it looks up."""
    return {
        "loaded": LOADED,
        "site": site.get_web_url(),
        "files": Files.get_url(),
        "found": modal.Function.from_name("reach", "site").get_web_url(),
    }


@app.function(image=image, secrets=[secret], scaledown_window=2)
def ask(urls: list[str], root: str = "") -> list[tuple[int, str]]:
    """Status and text of each, with a proxy token. root: a certificate to trust besides."""
    context = ssl.create_default_context(cadata=root or None)
    return [_ask(url, context) for url in urls]


@app.function(image=image, secrets=[secret], scaledown_window=2)
def first_message(url: str) -> str:
    """Of a websocket, by hand: what the server sends after it accepted."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(
            f"GET {parts.path}/ HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            f"Modal-Key: {os.environ['KEY']}\r\nModal-Secret: {os.environ['SECRET']}\r\n\r\n".encode()
        )
        stream = connection.makefile("rb")
        while stream.readline() != b"\r\n":
            pass
        _, size = stream.read(2)
        return stream.read(size).decode()


def _ask(url: str, context: ssl.SSLContext) -> tuple[int, str]:
    request = urllib.request.Request(url)
    request.add_header("Modal-Key", os.environ["KEY"])
    request.add_header("Modal-Secret", os.environ["SECRET"])
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.status, answer.read(200).decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read(200).decode()
    except OSError as error:
        return 0, str(error)
