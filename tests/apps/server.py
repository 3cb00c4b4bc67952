"""Apps whose container serves HTTP itself."""

import subprocess
import sys

import modal

app = modal.App("server")
image = modal.Image.debian_slim(python_version="3.11")

PROGRAM = """
import asyncio, hashlib, os, signal

async def serve(reader, writer):
    while True:
        try:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode()
        except asyncio.IncompleteReadError:
            return writer.close()
        method, target, _ = head.split("\\r\\n")[0].split(" ")
        headers = dict(line.split(": ", 1) for line in head.split("\\r\\n")[1:] if line)
        headers = {k.lower(): v for k, v in headers.items()}
        size = 0
        if "content-length" in headers:
            while size < int(headers["content-length"]):
                chunk = await reader.read(65536)
                if not chunk:
                    return writer.close()
                size += len(chunk)
        if target.startswith("/slow"):
            await asyncio.sleep(float(target.split("=")[1]))
        if target == "/garbage":
            writer.write(b"this is no HTTP at all\\r\\n\\r\\n")
            return writer.close()
        if target == "/die":
            os._exit(1)
        if target == "/break":
            return writer.transport.abort()
        body = f"{method} {target} {size} {os.getpid()} {headers.get('host')} {headers.get('x-forwarded-for')}".encode()
        if target.startswith("/download"):
            count = int(target.split("=")[1])
            writer.write(f"HTTP/1.1 200 OK\\r\\ncontent-length: {count << 20}\\r\\n\\r\\n".encode())
            for _ in range(count):
                writer.write(b"z" * (1 << 20))
                await writer.drain()
            continue
        writer.write(f"HTTP/1.1 200 OK\\r\\ncontent-length: {len(body)}\\r\\nx-answered-by: app\\r\\n"
                     f"x-task: {os.environ['MODAL_TASK_ID']}\\r\\n\\r\\n".encode() + body)

async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", PORT)
    await server.serve_forever()

asyncio.run(main())
"""

SOCKETS = """
import asyncio
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

web = FastAPI()
gone = 0

@web.get("/gone")
async def get_gone():
    return gone

@web.get("/never")
async def never(request: Request):
    global gone
    while not await request.is_disconnected():
        await asyncio.sleep(0.05)
    gone += 1

@web.get("/events")
async def events():
    async def stream():
        for i in range(3):
            yield f"data: {i}\\n\\n"
            await asyncio.sleep(0.3)
    return StreamingResponse(stream(), media_type="text/event-stream")

@web.post("/size")
async def size(request: Request):
    return {"size": len(await request.body()), "id": request.headers["x-request-id"]}

@web.websocket("/echo")
async def echo(socket: WebSocket):
    global gone
    await socket.accept()
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            gone += 1
            print("socket closed", message.get("code"), flush=True)
            return
        if message.get("text") == "close":
            await socket.close(4002)
            return
        await socket.send_text(message["text"].upper())

uvicorn.run(web, host="0.0.0.0", port=8305, log_level="warning")
"""


class Program:
    port: int

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM.replace("PORT", str(self.port))])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        print("exit hook ran")


@app.server(image=image, port=8301, unauthenticated=True, scaledown_window=3)
class Open:
    @modal.enter()
    def start(self):
        self.program = Program()
        self.program.port = 8301
        self.program.start()

    @modal.exit()
    def stop(self):
        self.program.stop()


@app.server(image=image, port=8302, unauthenticated=True, max_concurrency=2, max_containers=1, scaledown_window=3)
class Narrow:
    @modal.enter()
    def start(self):
        self.program = Program()
        self.program.port = 8302
        self.program.start()


@app.server(image=image, port=8303, scaledown_window=3)
class Guarded:
    @modal.enter()
    def start(self):
        self.program = Program()
        self.program.port = 8303
        self.program.start()


@app.server(image=image, port=8304, unauthenticated=True, startup_timeout=3)
class Deaf:
    @modal.enter()
    def start(self):
        pass


@app.server(image=image.pip_install("fastapi[standard]"), port=8305, unauthenticated=True)
class Sockets:
    @modal.enter()
    def start(self):
        self.process = subprocess.Popen([sys.executable, "-c", SOCKETS])


@app.server(image=image, port=8306, max_concurrency=2, scaledown_window=3)
@modal.sessioned()
class Sticky:
    @modal.enter()
    def start(self):
        self.program = Program()
        self.program.port = 8306
        self.program.start()
