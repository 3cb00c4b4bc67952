"""An app with one of everything that answers HTTP."""

import asyncio
import subprocess
import sys
import time

import modal

app = modal.App("web")
image = modal.Image.debian_slim(python_version="3.11").pip_install("fastapi[standard]")

with image.imports():
    from fastapi import FastAPI, Request, WebSocket
    from fastapi.responses import StreamingResponse
    from pydantic import BaseModel

    class GenerationRequest(BaseModel):
        prompt: str
        steps: int = 20


@app.cls(image=image, max_containers=1)
class Model:
    @modal.method()
    def generate(self, prompt: str, steps: int) -> str:
        return f"/outputs/{prompt}-{steps}.mp4"

    @modal.fastapi_endpoint()
    def describe(self, name: str = "nobody") -> dict:
        return {"hello": name}


@app.function(image=image, max_containers=1)
@modal.fastapi_endpoint(method="POST", docs=True)
def inference_api(request: "GenerationRequest"):
    return {"filename": Model().generate.remote(request.prompt, request.steps)}


@app.function(image=image, max_containers=1)
@modal.fastapi_endpoint(label="Chosen_Name", requires_proxy_auth=True)
def private() -> str:
    return "secret"


@app.function(image=image, max_containers=1, timeout=60)
@modal.concurrent(max_inputs=20)
@modal.asgi_app()
def site():
    web = FastAPI()
    seen: dict[str, object] = {"disconnected": 0, "cancelled": 0}

    @web.get("/scope")
    async def scope(request: Request):
        headers = [[n.decode(), v.decode()] for n, v in request.scope["headers"]]
        return {"url": str(request.url), "root_path": request.scope["root_path"], "headers": headers}

    @web.get("/events")
    async def events(n: int = 5, pause: float = 0.2):
        async def stream():
            for i in range(n):
                yield f"data: {i}\n\n"
                await asyncio.sleep(pause)

        return StreamingResponse(stream(), media_type="text/event-stream")

    @web.get("/forever")
    async def forever():
        async def stream():
            try:
                while True:
                    yield b"tick\n"
                    await asyncio.sleep(0.05)
            finally:
                seen["disconnected"] += 1

        return StreamingResponse(stream())

    @web.get("/stubborn")
    async def stubborn():
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            seen["cancelled"] += 1
            raise

    @web.get("/seen")
    async def get_seen():
        return seen

    @web.post("/upload")
    async def upload(request: Request):
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return {"size": size}

    @web.post("/trickle")
    async def trickle(request: Request):
        size, begun = 0, time.monotonic()
        async for chunk in request.stream():
            size += len(chunk)
            await asyncio.sleep(0.001)
        return {"size": size, "seconds": time.monotonic() - begun}

    @web.get("/download")
    async def download(mib: int):
        async def stream():
            for _ in range(mib):
                yield b"x" * (1 << 20)

        return StreamingResponse(stream(), media_type="application/octet-stream")

    @web.get("/raise")
    async def fail():
        raise ValueError("a secret of the app")

    @web.get("/slow")
    async def slow(seconds: float):
        await asyncio.sleep(seconds)
        return {"slept": seconds}

    @web.get("/die")
    async def die():
        import os

        os._exit(3)

    @web.websocket("/echo")
    async def echo(socket: WebSocket):
        await socket.accept(subprotocol=socket.scope["subprotocols"][0] if socket.scope["subprotocols"] else None)
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    seen["socket_code"] = message.get("code")
                    return
                if message.get("text") == "close":
                    await socket.close(4001, "as you wish")
                    return
                if message.get("text") is not None:
                    await socket.send_text(message["text"].upper())
                else:
                    await socket.send_bytes(message["bytes"][::-1])
        finally:
            seen["disconnected"] += 1

    @web.websocket("/closed")
    async def closed(socket: WebSocket):
        await socket.close()

    return web


@app.function(image=image, max_containers=1)
@modal.asgi_app()
def bare():
    """Answers in the ways that frameworks do not."""

    async def answer(scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["path"].endswith("/nothing"):
            return
        if scope["path"].endswith("/half"):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise RuntimeError("enough")
        if scope["path"].endswith("/whole"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"y" * (int(scope["query_string"]) << 20)})

    return answer


@app.function(image=image, max_containers=1, timeout=2)
@modal.asgi_app()
def silent():
    async def answer(scope, receive, send):
        if scope["type"] == "http":
            await asyncio.sleep(3600)

    return answer


@app.function(image=image, max_containers=1)
@modal.wsgi_app()
def flasky():
    def answer(environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("200 OK", [("Content-Type", "text/plain"), ("X-Path", environ["PATH_INFO"])])
        return [environ["REQUEST_METHOD"].encode(), b" ", body]

    return answer


@app.function(image=image, max_containers=1)
@modal.concurrent(max_inputs=10)
@modal.web_server(8123, startup_timeout=20)
def files():
    subprocess.Popen([sys.executable, "-m", "http.server", "8123", "--directory", "/etc"])
