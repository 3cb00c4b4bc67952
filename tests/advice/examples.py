"""Short code behind HEAD: WRONG has what a rule must speak of exactly once, RIGHT what no rule may speak of."""

from __future__ import annotations

HEAD = """
import modal
import os
import subprocess
import time

import requests
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

app = modal.App("x")
vol = modal.Volume.from_name("model-cache", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("torch==2.7.1")
"""
LOADS = """
class Model:
    @modal.enter()
    def load(self):
        self.model = AutoModel.from_pretrained("org/name")
"""
SNAPSHOT = """
@app.cls(enable_memory_snapshot=True)
class A:
    @modal.enter(snap=True)
    def up(self):
"""
# rule, and code behind HEAD that has exactly one finding of it
WRONG = {
    "hub, no volume": ("STK001", "@app.cls(image=image)" + LOADS),
    "hub, no volume, cache variable": ("STK001", '@app.cls(image=image.env({"HF_HOME": "/cache"}))' + LOADS),
    "hub in a function": ("STK001", '@app.function()\ndef run():\n    return AutoModel.from_pretrained("org/name")'),
    "volume, cache elsewhere": ("STK002", '@app.cls(image=image, volumes={"/models": vol})' + LOADS),
    "volume, cache at a third place": (
        "STK002",
        '@app.cls(image=image.env({"HF_HOME": "/cache"}), volumes={"/models": vol})' + LOADS,
    ),
    "window too short": ("STK003", '@app.cls(gpu="A10G", scaledown_window=10, volumes={"/models": vol})' + LOADS),
    "window too long": ("STK003", 'MINUTES = 60\n@app.cls(gpu="A10G", scaledown_window=20 * MINUTES)\nclass A:\n    pass'),
    "window refused": ("STK003", "@app.function(scaledown_window=7200)\ndef f():\n    pass"),
    "web server with one input": (
        "STK004",
        '@app.function(gpu="H100")\n@modal.web_server(8000)\ndef serve():\n    subprocess.Popen("vllm serve", shell=True)',
    ),
    "global model": (
        "STK004",
        'with image.imports():\n    from engine import make\nmodel = make()\n@app.function(gpu="T4")\ndef f(text):\n    return model(text)',
    ),
    "snapshot after the load": (
        "STK005",
        '@app.cls(gpu="A10G", volumes={"/models": vol}, enable_memory_snapshot=True)' + LOADS,
    ),
    "GPU used before the snapshot": (
        "STK005",
        """
@app.cls(gpu="A10G", volumes={"/models": vol}, enable_memory_snapshot=True, experimental_options={"other": 1})
class Model:
    @modal.enter(snap=True)
    def load(self):
        self.model = AutoModel.from_pretrained("org/name").to("cuda")
""",
    ),
    "video, default timeout": (
        "STK006",
        """
@app.function(volumes={"/models": vol})
def video(prompt):
    from diffusers.utils import export_to_video
    export_to_video(frames(prompt), "/models/x.mp4")
""",
    ),
    "comfy waits longer": (
        "STK006",
        '@app.function(timeout=600)\ndef f(path):\n    subprocess.run(["comfy", "run", "--workflow", path, "--timeout", "1200"])',
    ),
    "map without retries": (
        "STK007",
        """
@app.cls(gpu="A10G", volumes={"/models": vol})
class Model:
    @modal.method()
    def run(self, items: list[str]):
        return items

@app.local_entrypoint()
def main():
    list(Model().run.map([["a"]]))
""",
    ),
    "wget in enter": (
        "STK008",
        """
@app.cls(gpu="A10G")
class Model:
    @modal.enter()
    def load(self):
        subprocess.run("wget -q https://host/model.safetensors -O /tmp/m", shell=True, check=True)
""",
    ),
    "latest": ("STK009", 'base = modal.Image.from_registry("nvidia/cuda:latest")'),
    "no tag, port in the name": ("STK009", 'base = modal.Image.from_registry("registry:5000/team/base", add_python="3.11")'),
    "nothing pinned": ("STK010", 'other = modal.Image.debian_slim().pip_install("torch", "numpy>=2")'),
    "list of packages": ("STK010", 'PACKAGES = ["torch"]\nother = modal.Image.debian_slim().pip_install(PACKAGES)'),
    "sleep": (
        "STK011",
        "@app.function()\n@modal.concurrent(max_inputs=10)\nasync def f(x):\n    time.sleep(1)",
    ),
    "remote call without aio": (
        "STK011",
        "@app.function()\ndef g(x):\n    pass\n@app.function()\n@modal.concurrent(max_inputs=10)\nasync def f(x):\n    return g.remote(x)",
    ),
    "token": ("STK012", 'TOKEN = "hf_' + "a1B2" * 9 + '"'),
    "password by name": ("STK012", 'config = {"db_password": "s3cr3tP4ssw0rdX"}'),
    "load in a method": (
        "STK013",
        """
@app.cls(volumes={"/models": vol})
class Model:
    @modal.method()
    def run(self, text):
        model = AutoModel.from_pretrained("org/name")
        return model(text)
""",
    ),
    "file of weights in a function": (
        "STK013",
        'import torch\n@app.function(gpu="T4")\ndef f(x):\n    model = torch.load("model.pt")\n    return model(x)',
    ),
    "load in the constructor": (
        "STK013",
        '@app.cls(volumes={"/models": vol})\nclass Model:\n    def __init__(self):\n        self.model = AutoModel.from_pretrained("org/name")',
    ),
    "load at import": (
        "STK013",
        'model = AutoModel.from_pretrained("org/name")\n@app.function()\ndef f(text):\n    return model(text)',
    ),
    "secret of words": ("STK012", 'API_KEY = "super-secret-key"'),
    "secret as a default": ("STK012", 'def ask(question, api_key="abcd-efgh-1234"):\n    pass'),
    "secret as a fall-back": ("STK012", 'key = os.environ.get("API_KEY", "abcd-efgh-ijkl")'),
    "secret compared with": ("STK012", 'def f(given):\n    if given.password != "swordfish1":\n        raise ValueError'),
    "secret in a header": ("STK012", 'HEADERS = {"Authorization": "Bearer abcdefgh12345"}'),
    "password in an address": ("STK012", 'URL = "postgresql://me:s3cr3tpw@db.host/x"'),
    "ollama pull": (
        "STK008",
        '@app.cls(image=image.apt_install("curl"))\nclass A:\n    @modal.enter()\n    def up(self):\n        subprocess.run(["ollama", "pull", "llama3"])',
    ),
    "whisper beside a Volume": (
        "STK002",
        '@app.cls(image=image, volumes={"/models": vol})\nclass A:\n    @modal.enter()\n    def up(self):\n'
        "        import whisper\n        self.model = whisper.load_model('base')",
    ),
    "a class that is gone": ("STK014", 'stub = modal.Stub("y")'),
    "a method that is gone": ("STK014", 'vol2 = modal.NetworkFileSystem.persisted("x")'),
    "an import that is gone": ("STK014", "from modal import web_endpoint"),
    "a step that is gone": ("STK014", 'other = modal.Image.debian_slim().copy_local_dir(".", "/root")'),
    "an option that is gone": ("STK014", "@app.function(concurrency_limit=3)\ndef f():\n    pass"),
    "a slip in an option": ("STK014", "@app.function(scaledown_windows=30)\ndef f():\n    pass"),
    "modal.gpu": ("STK014", '@app.function(gpu=modal.gpu.A100(count=2))\ndef f():\n    pass'),
    "a sandbox": ("STK015", 'def run():\n    return modal.Sandbox.create("true", app=app)'),
    "a tunnel": ("STK015", "@app.function()\ndef f():\n    with modal.forward(8000) as tunnel:\n        print(tunnel.url)"),
    "a cluster": ("STK015", "import modal.experimental\n@app.function()\n@modal.experimental.clustered(size=2)\ndef f():\n    pass"),
    "private addresses": ("STK015", "@app.function(i6pn=True)\ndef f():\n    pass"),
    "no such GPU": ("STK016", '@app.function(gpu="H1000")\ndef f():\n    pass'),
    "a GPU's size run together": ("STK016", '@app.function(gpu="A100-80G")\ndef f():\n    pass'),
    "no number of GPUs": ("STK016", '@app.function(gpu="H100:all")\ndef f():\n    pass'),
    "one GPU of a list": ("STK016", '@app.function(gpu=["H100", "A-100"])\ndef f():\n    pass'),
    "no fields": ("STK017", '@app.function(schedule=modal.Cron("every day"))\ndef f():\n    pass'),
    "an hour too many": ("STK017", '@app.function(schedule=modal.Cron("0 24 * * *"))\ndef f():\n    pass'),
    "a day that never comes": ("STK017", '@app.function(schedule=modal.Cron("0 0 30 2 *"))\ndef f():\n    pass'),
    "no such time zone": ("STK017", '@app.function(schedule=modal.Cron("0 6 * * *", timezone="Europe/Berln"))\ndef f():\n    pass'),
    "an empty period": ("STK017", "@app.function(schedule=modal.Period())\ndef f():\n    pass"),
    "a session before the snapshot": ("STK018", SNAPSHOT + "        self.session = requests.Session()\n        self.session.get('https://x.org')"),
    "a pool of a database": ("STK018", SNAPSHOT + "        import psycopg_pool\n        self.pool = psycopg_pool.ConnectionPool('host=db')"),
    "a pool of processes": ("STK018", SNAPSHOT + "        import multiprocessing\n        self.pool = multiprocessing.Pool(4)"),
    "workers of a loader": (
        "STK018",
        SNAPSHOT + "        from torch.utils.data import DataLoader\n        self.data = DataLoader(d, num_workers=2, persistent_workers=True)",
    ),
    "Ray": ("STK018", SNAPSHOT + "        import ray\n        ray.init()"),
    "statsd": ("STK018", SNAPSHOT + "        import statsd\n        self.stats = statsd.StatsClient('metrics.host', 8125)"),
    "an executor at the top": (
        "STK018",
        "from concurrent.futures import ProcessPoolExecutor\npool = ProcessPoolExecutor()\n" + SNAPSHOT + "        pass",
    ),
    "SQLite": ("STK019", 'import sqlite3\n@app.function(volumes={"/data": vol})\ndef f(name):\n    return sqlite3.connect(f"/data/{name}.db")'),
    "SQLite of a path above": (
        "STK019",
        'import sqlite3\nfrom pathlib import Path\nDATA = Path("/data")\ndef db():\n    return sqlite3.connect(str(DATA / "x.db"))\n'
        '@app.function(volumes={str(DATA): vol})\ndef f():\n    return db().execute("select 1")',
    ),
    "SQLite in an attribute": (
        "STK019",
        'import sqlite3\n@app.cls(volumes={"/data": vol})\nclass A:\n    @modal.enter()\n    def up(self):\n        self.path = "/data/x.db"\n'
        "        self.db = sqlite3.connect(self.path)",
    ),
    "SQLAlchemy": (
        "STK019",
        'from sqlalchemy import create_engine\nengine = create_engine("sqlite:////data/x.db")\n@app.function(volumes={"/data": vol})\ndef f():\n    pass',
    ),
    "flock": (
        "STK019",
        'import fcntl\n@app.function(volumes={"/data": vol})\ndef f():\n    with open("/data/count", "r+") as file:\n        fcntl.flock(file, fcntl.LOCK_EX)',
    ),
    "lockf of a descriptor": (
        "STK019",
        'import fcntl\n@app.function(volumes={"/data": vol})\ndef f():\n    file = open("/data/count", "a")\n    fcntl.lockf(file.fileno(), fcntl.LOCK_EX)',
    ),
    "filelock": (
        "STK019",
        'from filelock import FileLock\n@app.function(volumes={"/data": vol}, max_containers=2)\ndef f():\n    with FileLock("/data/x.lock"):\n        pass',
    ),
    "SQLite below a web app": (
        "STK019",
        'import sqlite3\n@app.function(volumes={"/data": vol})\n@modal.asgi_app()\ndef web():\n    from fastapi import FastAPI\n    api = FastAPI()\n'
        '    @api.get("/")\n    def index():\n        return sqlite3.connect("/data/x.db").execute("select 1").fetchall()\n    return api',
    ),
}  # fmt: skip
RIGHT = {
    "a file that the call names": 'import torch\n@app.function()\ndef f(path):\n    return torch.load(path).mean()',
    "local path": "@app.cls()" + LOADS.replace("org/name", "/weights/name"),
    "path by name": "@app.cls()" + LOADS.replace('"org/name"', "MODEL_DIR"),
    "offline": "@app.cls()" + LOADS.replace('"org/name"', '"org/name", local_files_only=True'),
    "options not in sight": "@app.cls(**shared.options)" + LOADS,
    "volumes not in sight": "@app.cls(volumes=mounts())" + LOADS,
    "baked into the image": 'baked = image.run_commands("hf download org/name")\n@app.cls(image=baked)' + LOADS,
    "baked by a function": """
def download():
    AutoModel.from_pretrained("org/name")
@app.cls(image=image.run_function(download))
""" + LOADS,
    "cache on the volume": '@app.cls(image=image.env({"HF_HOME": "/models/hf"}), volumes={"/models": vol})' + LOADS,
    "cache by the unit's env": '@app.cls(image=image, env={"HF_HOME": "/models"}, volumes={"/models": vol})' + LOADS,
    "cache by os.environ": 'os.environ["HF_HOME"] = "/models"\n@app.cls(image=image, volumes={"/models": vol})' + LOADS,
    "default cache mounted": '@app.cls(image=image, volumes={"/root/.cache/huggingface": vol})' + LOADS,
    "cache_dir": '@app.cls(image=image, volumes={"/models": vol})' + LOADS.replace('"org/name"', '"org/name", cache_dir="/models"'),
    "short window, restored": """
@app.cls(gpu="A10G", scaledown_window=20, volumes={"/models": vol}, enable_memory_snapshot=True, experimental_options={"enable_gpu_snapshot": True})
""" + LOADS.replace("enter()", "enter(snap=True)"),
    "snapshot on the CPU, moved after": """
@app.cls(gpu="A10G", volumes={"/models": vol}, enable_memory_snapshot=True)
class Model:
    @modal.enter(snap=True)
    def load(self):
        self.model = AutoModel.from_pretrained("org/name")
    @modal.enter(snap=False)
    def move(self):
        self.model.to("cuda")
""",
    "caller sends lists": '@app.function(gpu="T4")\ndef f(texts):\n    return model(texts)',
    "batched": """
@app.cls(gpu="A10G", volumes={"/models": vol}, scaledown_window=60, enable_memory_snapshot=True, experimental_options={"enable_gpu_snapshot": True})
class Model:
    @modal.enter(snap=True)
    def load(self):
        self.model = AutoModel.from_pretrained("org/name")
    @modal.batched(max_batch_size=8, wait_ms=100)
    def run(self, text):
        return self.model(text)
""",
    "a training run": '@app.function(gpu="H100", retries=1)\ndef train(config):\n    fit(model, config)',
    "a GPU only by the environment": '@app.cls(gpu=os.environ.get("GPU"), volumes={"/models": vol})' + LOADS,
    "another library's decorator": "router = Router()\n@router.function(gpu=1, scaledown_window=5000)\ndef f(x):\n    pass",
    "tags and digests": """
a = modal.Image.from_registry("nvidia/cuda:12.8.1-devel-ubuntu22.04")
b = modal.Image.from_registry("team/base@sha256:0123456789abcdef")
c = modal.Image.from_registry("registry:5000/team/base:1.0")
d = modal.Image.from_registry(NAME_FROM_ELSEWHERE)
""",
    "pinned in every way": 'a = modal.Image.debian_slim().pip_install("a==1", "b~=2.0", "c<3", "d @ https://host/d.whl", "/tmp/e-1.whl")',
    "async without concurrency": "@app.function()\nasync def f(x):\n    time.sleep(1)",
    "awaited and threaded": """
import asyncio
@app.function()
@modal.concurrent(max_inputs=10)
async def f(x):
    await asyncio.to_thread(requests.get, x)
    def helper():
        time.sleep(1)
    await asyncio.to_thread(helper)
    return await g.remote.aio(x)
""",
    "words that are no secrets": """
tokenizer = AutoTokenizer.from_pretrained("/weights", pad_token="<|finetune_right_pad_id|>")
HF_TOKEN = "your-token-here"
token = os.environ["HF_TOKEN"]
API_KEY = ""
secret = modal.Secret.from_name("huggingface-secret", required_keys=["HF_TOKEN"])
""",
    "a download job": '@app.function(volumes={"/root/.cache": vol}, retries=2)\ndef download_model():\n    AutoModel.from_pretrained("org/name")',
    "kept by the method": """
@app.cls(volumes={"/models": vol})
class Model:
    @modal.method()
    def run(self, name):
        if name not in self.models:
            self.models[name] = AutoModel.from_pretrained(name)
        return self.models[name]
""",
    "keys that nobody checks": 'client = OpenAI(api_key="EMPTY")\nAPI_KEY = "OPENAI_API_KEY"\nschema = {"password": "string", "api_key": "X-API-Key", "access_token": "access_token"}',
    "what a Secret is called": 'HF_SECRET = "my-hf-secret-1234"\nsecret = modal.Secret.from_name(HF_SECRET)',
    "words of a language model": 'if token == "<stop-12345678>":\n    pass\nTOKEN = "beginning"',
    "an image in terms of itself": 'def grow(image):\n    image = image.env({"A": "1"})\n    return image\nfor _ in range(3):\n    image = image.env({"B": "1"})',
    "whisper with its cache mounted": """
@app.cls(image=image, volumes={"/root/.cache": vol})
class A:
    @modal.enter()
    def up(self):
        import whisper
        self.model = whisper.load_model("base")
""",
    "a pipeline of what is loaded": """
@app.cls(image=image, volumes={"/root/.cache/huggingface": vol})
class A:
    @modal.enter()
    def up(self):
        from transformers import pipeline
        self.model = AutoModel.from_pretrained("org/name")
        self.tokenizer = AutoTokenizer.from_pretrained("org/name")
        self.pipe = pipeline("text-classification", model=self.model, tokenizer=self.tokenizer)
""",
    "what has such a name elsewhere": 'import other\nother.Sandbox.create()\nother.Stub("x")\nother.gpu.A100()\ndef forward(x):\n    return x\nforward(1)',
    "GPUs of all kinds": '@app.function(gpu=["H100:8", "any", "a100-80gb", "H100!", "L40S"])\ndef f():\n    pass',
    "schedules": """
@app.function(schedule=modal.Cron("*/5 0-6 * JAN-MAR MON", timezone="Europe/Berlin"))
def f():
    pass
@app.function(schedule=modal.Period(days=1))
def g():
    pass
""",
    "what comes after the snapshot": SNAPSHOT + "        pass\n    @modal.enter(snap=False)\n    def later(self):\n        self.session = requests.Session()",
    "a session that is closed": SNAPSHOT + "        with requests.Session() as session:\n            session.get('https://x.org')",
    "sessions without snapshots": "@app.cls()\nclass A:\n    @modal.enter()\n    def up(self):\n        self.session = requests.Session()",
    "a pool that spawns": SNAPSHOT + "        import multiprocessing\n        self.pool = multiprocessing.get_context('spawn').Pool(4)",
    "a local server before the snapshot": SNAPSHOT + "        subprocess.Popen(['vllm', 'serve', '/m'])\n        requests.get('http://localhost:8000/health')",
    "databases that are not shared": """
import sqlite3
import fcntl
@app.function(volumes={"/data": vol})
def f():
    sqlite3.connect(":memory:")
    sqlite3.connect("/tmp/x.db")
    sqlite3.connect("file:/data/x.db?mode=ro", uri=True)
    with open("/tmp/lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
@app.function(volumes={"/one": vol}, max_containers=1)
def alone():
    sqlite3.connect("/one/x.db")
@app.function(volumes={"/read": vol.with_mount_options(read_only=True)})
def reads():
    sqlite3.connect("/read/x.db")
@app.function()
def without():
    sqlite3.connect("/data/x.db")
@app.local_entrypoint()
def main():
    sqlite3.connect("/data/x.db")
""",
    "no app at all": 'def f():\n    return AutoModel.from_pretrained("org/name")',
}  # fmt: skip
