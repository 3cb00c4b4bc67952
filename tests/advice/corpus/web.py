"""Web apps, programs beside containers, apps that ask for what is not offered, and apps of older clients."""

APPS = {
    "fastapi": ("", '''
from typing import Optional
import modal
from fastapi import FastAPI, Header
from pydantic import BaseModel

image = modal.Image.debian_slim().uv_pip_install("fastapi[standard]==0.115.4", "pydantic==2.9.2")
app = modal.App("example-fastapi-app", image=image)
web_app = FastAPI()

class Item(BaseModel):
    name: str
    password: str = ""

@web_app.get("/")
async def handle_root(user_agent: Optional[str] = Header(None)):
    print(f"GET /     - received user_agent={user_agent}")
    return "Hello World"

@web_app.post("/foo")
async def handle_foo(item: Item, user_agent: Optional[str] = Header(None)):
    return item

@app.function()
@modal.asgi_app()
def fastapi_app():
    return web_app

@app.function()
@modal.fastapi_endpoint(method="POST", requires_proxy_auth=True, label="square")
def f(item: Item):
    return "Hello " + item.name

if __name__ == "__main__":
    app.deploy("webapp")
'''),
    "auth by a literal": ("STK012", '''
import modal

image = modal.Image.debian_slim().pip_install("fastapi[standard]==0.115.4")
app = modal.App("guarded", image=image)
API_KEY = "my-super-secret-key"

@app.function()
@modal.asgi_app()
def web():
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.security import APIKeyHeader
    api = FastAPI()
    header = APIKeyHeader(name="X-API-Key")

    @api.get("/")
    def index(key: str = Depends(header)):
        if key != API_KEY:
            raise HTTPException(401)
        return {"ok": True}
    return api
'''),
    "auth by a secret": ("", '''
import modal

image = modal.Image.debian_slim().pip_install("fastapi[standard]==0.115.4")
app = modal.App("guarded-right", image=image)

@app.function(secrets=[modal.Secret.from_name("my-web-auth-token", required_keys=["AUTH_TOKEN"])])
@modal.fastapi_endpoint()
async def square(request: int, token: str = "none"):
    import os
    from fastapi import HTTPException, status
    if token != os.environ["AUTH_TOKEN"]:
        raise HTTPException(status_code=status.HTTP_401_UNAUTHORIZED, detail="Incorrect bearer token", headers={"WWW-Authenticate": "Bearer"})
    return request * request
'''),
    "streamlit": ("", '''
import shlex
import subprocess
from pathlib import Path
import modal

streamlit_script_local_path = Path(__file__).parent / "app.py"
streamlit_script_remote_path = "/root/app.py"
image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install("streamlit~=1.35.0", "numpy~=1.26.4", "pandas~=2.2.2")
    .add_local_file(streamlit_script_local_path, streamlit_script_remote_path)
)
app = modal.App(name="example-serve-streamlit", image=image)
if not streamlit_script_local_path.exists():
    raise RuntimeError("Hey your starting path is wrong.")

@app.function()
@modal.concurrent(max_inputs=100)
@modal.web_server(8000)
def run():
    target = shlex.quote(streamlit_script_remote_path)
    cmd = f"streamlit run {target} --server.port 8000 --server.enableCORS=false --server.enableXsrfProtection=false"
    subprocess.Popen(cmd, shell=True)
'''),
    "flask": ("STK010", '''
import modal

app = modal.App("flask", image=modal.Image.debian_slim().pip_install("flask"))

@app.function(min_containers=1, buffer_containers=1)
@modal.concurrent(max_inputs=10)
@modal.wsgi_app()
def flask_app():
    from flask import Flask, request
    web = Flask(__name__)

    @web.get("/")
    def home():
        return "Hello Flask World!"

    @web.post("/echo")
    def echo():
        return request.json
    return web
'''),
    "websocket": ("", '''
import modal

image = modal.Image.debian_slim().uv_pip_install("fastapi[standard]==0.115.6")
app = modal.App("ws", image=image)

@app.cls(scaledown_window=60)
@modal.concurrent(max_inputs=1000)
class Rooms:
    @modal.enter()
    def setup(self):
        self.rooms = {}

    @modal.asgi_app()
    def web(self):
        from fastapi import FastAPI, WebSocket
        api = FastAPI()

        @api.websocket("/ws/{room}")
        async def join(socket: WebSocket, room: str):
            await socket.accept()
            self.rooms.setdefault(room, []).append(socket)
            async for text in socket.iter_text():
                for other in self.rooms[room]:
                    await other.send_text(text)
        return api
'''),
    "job queue": ("", '''
import modal

image = modal.Image.debian_slim().uv_pip_install("fastapi[standard]==0.115.6")
app = modal.App("doc-jobs", image=image)

@app.function(timeout=600, retries=3)
def process_job(data: dict):
    return {"result": data}

@app.function()
@modal.asgi_app()
def api():
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse
    web = FastAPI()

    @web.post("/submit")
    async def submit(data: dict):
        call = await process_job.spawn.aio(data)
        return {"call_id": call.object_id}

    @web.get("/result/{call_id}")
    async def result(call_id: str):
        call = modal.FunctionCall.from_id(call_id)
        try:
            return await call.get.aio(timeout=0)
        except modal.exception.OutputExpiredError:
            return JSONResponse(content="", status_code=404)
        except TimeoutError:
            return JSONResponse(content="", status_code=202)
    return web
'''),
    "discord bot": ("", '''
import json
from enum import Enum
import modal

image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("fastapi[standard]==0.115.4", "pynacl~=1.5.0", "requests~=2.32.3")
app = modal.App("example-discord-bot", image=image)
discord_secret = modal.Secret.from_name("discord-secret", required_keys=["DISCORD_BOT_TOKEN", "DISCORD_CLIENT_ID", "DISCORD_PUBLIC_KEY"])

class Kind(Enum):
    PING = 1
    COMMAND = 2

@app.function()
async def reply(app_id: str, interaction_token: str):
    import aiohttp
    url = f"https://discord.com/api/v10/webhooks/{app_id}/{interaction_token}/messages/@original"
    async with aiohttp.ClientSession() as session:
        async with session.patch(url, json={"content": "hi"}) as response:
            print(await response.text())

@app.function(secrets=[discord_secret], min_containers=1)
@modal.concurrent(max_inputs=1000)
@modal.asgi_app()
def web_app():
    import os
    from fastapi import FastAPI, HTTPException, Request
    from nacl.signing import VerifyKey
    web = FastAPI()

    @web.post("/api")
    async def get_api(request: Request):
        body = await request.body()
        key = VerifyKey(bytes.fromhex(os.environ["DISCORD_PUBLIC_KEY"]))
        key.verify(request.headers["X-Signature-Timestamp"].encode() + body, bytes.fromhex(request.headers["X-Signature-Ed25519"]))
        data = json.loads(body.decode())
        if data.get("type") == Kind.PING.value:
            return {"type": 1}
        if data.get("type") == Kind.COMMAND.value:
            reply.spawn(data["application_id"], data["token"])
            return {"type": 5}
        raise HTTPException(status_code=400, detail="Bad request")
    return web
'''),
    "jupyter by a tunnel": ("STK015 STK012", '''
import os
import subprocess
import modal

app = modal.App("jupyter", image=modal.Image.debian_slim().pip_install("jupyter==1.1.1"))
JUPYTER_TOKEN = "super-secret-1234"

@app.function(max_containers=1, timeout=1_500)
def run_jupyter(timeout: int):
    with modal.forward(8888) as tunnel:
        process = subprocess.Popen(
            ["jupyter", "notebook", "--no-browser", "--allow-root", "--port=8888"], env={**os.environ, "JUPYTER_TOKEN": JUPYTER_TOKEN}
        )
        print(tunnel.url)
        process.wait(timeout)
'''),
    "code in a sandbox": ("STK015", '''
import modal

app = modal.App.lookup("safe-code-execution", create_if_missing=True)
sandbox = modal.Sandbox.create(app=app, image=modal.Image.debian_slim().pip_install("pandas==2.2.3"))
process = sandbox.exec("python", "-c", "print('hello')")
print(process.stdout.read())
sandbox.terminate()
'''),
    "cluster": ("STK015", '''
import modal
import modal.experimental

app = modal.App("multi-node", image=modal.Image.debian_slim(python_version="3.12").uv_pip_install("torch==2.6.0"))

@app.function(gpu="H100:8", timeout=60 * 60 * 24, retries=1)
@modal.experimental.clustered(size=4)
def train_model():
    import subprocess
    info = modal.experimental.get_cluster_info()
    subprocess.run(["torchrun", f"--node-rank={info.rank}", f"--master-addr={info.container_ips[0]}", "train.py"], check=True)
'''),
    "server": ("", '''
import subprocess
import modal

image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("uvicorn==0.34.0", "fastapi==0.115.6")
app = modal.App("api-server", image=image)

@app.server(port=8000, exit_grace_period=10)
class Server:
    @modal.enter()
    def start(self):
        self.process = subprocess.Popen(["uvicorn", "main:api", "--port", "8000"])

    @modal.exit()
    def stop(self):
        self.process.terminate()
'''),
    "2023: stub and mounts": ("STK014", '''
import modal

stub = modal.Stub("old-app")
image = modal.Image.debian_slim().pip_install("requests==2.31.0")

@stub.function(image=image, mounts=[modal.Mount.from_local_dir("data", remote_path="/data")], keep_warm=1)
def read(name: str) -> str:
    with open(f"/data/{name}") as file:
        return file.read()

@stub.local_entrypoint()
def main():
    print(read.remote("a.txt"))
'''),
    "2023: classes": ("STK014 STK010 STK013", '''
import modal

stub = modal.Stub("sd", image=modal.Image.debian_slim().pip_install("diffusers", "torch"))
volume = modal.NetworkFileSystem.persisted("sd-cache")

@stub.cls(gpu=modal.gpu.A10G(), network_file_systems={"/root/.cache": volume}, container_idle_timeout=240, concurrency_limit=4)
class StableDiffusion:
    def __init__(self):
        from diffusers import StableDiffusionPipeline
        self.pipe = StableDiffusionPipeline.from_pretrained("runwayml/stable-diffusion-v1-5").to("cuda")

    @modal.method()
    def run_inference(self, prompt: str):
        return self.pipe(prompt).images[0]

    @modal.web_endpoint()
    def web(self, prompt: str):
        return {"ok": bool(self.run_inference.call(prompt))}
'''),
    "2024: lookup and concurrency": ("STK014", '''
import modal

app = modal.App("lookups")
image = modal.Image.debian_slim().copy_local_file("config.json", "/root/config.json")

@app.function(image=image, allow_concurrent_inputs=10, container_idle_timeout=300)
@modal.web_endpoint(method="POST")
def ask(body: dict):
    model = modal.Cls.lookup("llm", "Model")
    return model().generate.remote(body["question"])

def client():
    return modal.Function.lookup("lookups", "ask").remote({"question": "?"})
'''),
    "2024: build steps": ("STK014 STK005 STK004", '''
import modal

image = modal.Image.debian_slim(python_version="3.11").pip_install("torch==2.3.0", "transformers==4.41.0")
app = modal.App("builds", image=image)

@app.cls(gpu=modal.gpu.A100(size="80GB"))
class Model:
    @modal.build()
    def download(self):
        from transformers import AutoModel
        AutoModel.from_pretrained("bert-base-uncased")

    @modal.enter()
    def load(self):
        from transformers import AutoModel
        self.model = AutoModel.from_pretrained("bert-base-uncased").to("cuda")

    @modal.method()
    def run(self, text: str):
        return self.model(text)
'''),
    "names alike": ("", '''
import modal
from torch import nn
from redis import Redis
from other_package import Sandbox, Stub, forward, gpu

app = modal.App("names")
model = nn.Linear(3, 3)
stub = Stub("not the client's")
box = Sandbox.create()
token = "start-of-text"
password_field = "password"

class Net(nn.Module):
    def forward(self, x):
        return x

@app.function()
def f(x: float):
    with gpu.device(0):
        return forward(Net().forward(x), box, stub)

@app.function(env={"TOKENIZERS_PARALLELISM": "false", "API_KEY_NAME": "X-API-Key"})
def g(key: str):
    return Redis(host="cache").get(key)
'''),
    "factory": ("", '''
import modal

def make_app(name: str, gpu: str | None = None) -> modal.App:
    image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("numpy==2.1.3")
    app = modal.App(name, image=image)

    @app.function(gpu=gpu, serialized=True, name="work")
    def work(x: int) -> int:
        import numpy
        return int(numpy.square(x))

    return app

app = make_app("made")

@app.local_entrypoint()
def main(x: int = 3):
    print(modal.Function.from_name("made", "work").remote(x))
'''),
}  # fmt: skip
