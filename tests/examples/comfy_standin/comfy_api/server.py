"""HTTP and WebSocket, as far as `comfy` and the programs around a ComfyUI use them."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from aiohttp import web
from comfy.graph import ALL_NODES, problems
from comfy.prompts import Prompts
from PIL import Image


class Server:
    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._outboxes: dict[str, asyncio.Queue[str]] = {}
        """Messages per connected client, sent in the order in which they came up."""

    def send(self, client: str | None, kind: str, data: dict[str, Any]) -> None:
        text = json.dumps({"type": kind, "data": data})
        for name, outbox in self._outboxes.items():
            if client in (None, name):
                outbox.put_nowait(text)

    def application(self, prompts: Prompts) -> web.Application:
        self._prompts = prompts
        app = web.Application(client_max_size=100 << 20)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/ws", self._websocket),
                web.get("/prompt", self._prompt_status),
                web.post("/prompt", self._submit),
                web.get("/queue", self._queue),
                web.post("/queue", self._edit_queue),
                web.post("/interrupt", self._interrupt),
                web.post("/free", self._free),
                web.get("/history", self._history),
                web.get("/history/{id}", self._history),
                web.post("/history", self._edit_history),
                web.get("/view", self._view),
                web.post("/upload/image", self._upload),
                web.get("/object_info", self._object_info),
                web.get("/object_info/{name}", self._object_info),
                web.get("/system_stats", self._system_stats),
            ]
        )
        return app

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text="<title>ComfyUI</title>A stand-in for tests.", content_type="text/html")

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=30)
        await socket.prepare(request)
        client = request.query.get("clientId") or uuid.uuid4().hex
        outbox = self._outboxes[client] = asyncio.Queue()
        remaining = {"exec_info": {"queue_remaining": self._prompts.remaining}}
        outbox.put_nowait(json.dumps({"type": "status", "data": {"status": remaining, "sid": client}}))
        sender = asyncio.create_task(self._drain(outbox, socket))
        try:
            async for _ in socket:
                """Clients say nothing that matters here."""
        finally:
            sender.cancel()
            if self._outboxes.get(client) is outbox:
                del self._outboxes[client]
        return socket

    async def _drain(self, outbox: asyncio.Queue[str], socket: web.WebSocketResponse) -> None:
        while True:
            await socket.send_str(await outbox.get())

    async def _prompt_status(self, request: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": self._prompts.remaining}})

    async def _submit(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        workflow = wanted.get("prompt")
        if not isinstance(workflow, dict):
            missing = {"type": "no_prompt", "message": "No prompt provided", "details": "", "extra_info": {}}
            return web.json_response({"error": missing, "node_errors": {}}, status=400)
        error, node_errors = problems(workflow)
        if error:
            print(f"invalid prompt: {error}", flush=True)
            return web.json_response({"error": error, "node_errors": node_errors}, status=400)
        extra = dict(wanted.get("extra_data") or {})
        if wanted.get("client_id"):
            extra["client_id"] = wanted["client_id"]
        prompt = self._prompts.add(wanted.get("prompt_id") or str(uuid.uuid4()), workflow, extra)
        return web.json_response({"prompt_id": prompt.id, "number": prompt.number, "node_errors": {}})

    async def _queue(self, request: web.Request) -> web.Response:
        running = [self._prompts.running.item] if self._prompts.running else []
        pending = [prompt.item for prompt in self._prompts.pending]
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def _edit_queue(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        gone = set(wanted.get("delete", []))
        self._prompts.pending[:] = [
            prompt for prompt in self._prompts.pending if not wanted.get("clear") and prompt.id not in gone
        ]
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        self._prompts.interrupt()
        return web.Response()

    async def _free(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        known = self._prompts.history
        wanted = request.match_info.get("id")
        if wanted is not None:
            return web.json_response({wanted: known[wanted]} if wanted in known else {})
        newest = int(request.query.get("max_items", len(known)))
        return web.json_response(dict(list(known.items())[-newest:] if newest else []))

    async def _edit_history(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        for prompt in list(self._prompts.history) if wanted.get("clear") else wanted.get("delete", []):
            self._prompts.history.pop(prompt, None)
        return web.Response()

    async def _view(self, request: web.Request) -> web.StreamResponse:
        root = self._folder(request.query.get("type", "output"))
        file = (root / request.query.get("subfolder", "") / request.query.get("filename", "")).resolve()
        if not file.is_relative_to(root):
            raise web.HTTPForbidden
        if not file.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(file)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        field = form.get("image")
        if not isinstance(field, web.FileField):
            raise web.HTTPBadRequest(text="the form has no file called image")
        subfolder = str(form.get("subfolder", ""))
        root = self._folder(str(form.get("type", "input")))
        file = (root / subfolder / Path(field.filename).name).resolve()
        if not file.is_relative_to(root):
            raise web.HTTPForbidden
        number = 0
        while file.exists() and str(form.get("overwrite", "")).lower() not in ("true", "1"):
            number += 1
            file = file.with_name(f"{Path(field.filename).stem} ({number}){file.suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(field.file.read())
        try:
            Image.open(file).verify()
        except Exception as error:
            file.unlink()
            raise web.HTTPBadRequest(text=f"not an image: {error}") from error
        return web.json_response({"name": file.name, "subfolder": subfolder, "type": root.name})

    async def _object_info(self, request: web.Request) -> web.Response:
        wanted = request.match_info.get("name")
        nodes = ALL_NODES.items() if wanted is None else [(wanted, ALL_NODES[wanted])] if wanted in ALL_NODES else []
        return web.json_response({name: node.info(name) for name, node in nodes})

    async def _system_stats(self, request: web.Request) -> web.Response:
        system = {
            "os": sys.platform,
            "comfyui_version": "0.0-stand-in",
            "python_version": sys.version,
            "argv": sys.argv,
        }
        device = {"name": "cpu", "type": "cpu", "index": None, "vram_total": 0, "vram_free": 0}
        return web.json_response({"system": system, "devices": [device]})

    def _folder(self, name: str) -> Path:
        if name not in ("input", "output", "temp"):
            raise web.HTTPBadRequest(text=f"no folder is called {name}")
        return self._workspace / name
