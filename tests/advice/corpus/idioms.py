"""Ways of writing that make an app hard to read for a program: inheritance, conditions, state that comes later, names that stand for names."""

APPS = {
    "download once, load by path": ("STK005", '''
import modal

MODELS = "/models"
volume = modal.Volume.from_name("weights", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11").pip_install("huggingface-hub==0.27.0", "torch==2.5.1", "transformers==4.47.0")
app = modal.App("by-path", image=image, volumes={MODELS: volume})

@app.function(timeout=3600, secrets=[modal.Secret.from_name("huggingface")])
def download(repo: str = "org/model", force: bool = False):
    from huggingface_hub import snapshot_download
    snapshot_download(repo, local_dir=f"{MODELS}/{repo}", force_download=force)
    volume.commit()

@app.cls(gpu="L4", scaledown_window=120)
@modal.concurrent(max_inputs=4)
class Model:
    @modal.enter()
    def load(self):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        path = f"{MODELS}/org/model"
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, device_map="cuda")

    @modal.method()
    def generate(self, prompt: str):
        for token in self.model.generate(prompt):
            yield token
'''),
    "base class": ("", '''
import modal

app = modal.App("inherit", image=modal.Image.debian_slim(python_version="3.11").uv_pip_install("torch==2.8.0", "transformers==4.57.0"))
hub = modal.Volume.from_name("hub", create_if_missing=True)

class Base:
    repo = "org/base"

    @modal.enter(snap=True)
    def load(self):
        from transformers import AutoModel
        self.model = AutoModel.from_pretrained(self.repo)

    @modal.enter(snap=False)
    def move(self):
        self.model.to("cuda")

@app.cls(gpu="L4", enable_memory_snapshot=True, volumes={"/root/.cache/huggingface": hub})
class Small(Base):
    repo = "org/small"

    @modal.batched(max_batch_size=16, wait_ms=20)
    def run(self, texts: list[str]):
        return self.model(texts)

@app.cls(gpu="A100", enable_memory_snapshot=True, volumes={"/root/.cache/huggingface": hub})
class Large(Base):
    @modal.batched(max_batch_size=8, wait_ms=20)
    def run(self, texts: list[str]):
        return self.model(texts)
'''),
    "GPU by the environment": ("STK005", '''
import os
import modal

GPU = os.environ.get("GPU_TYPE", "L4")
GPU_COUNT = int(os.environ.get("GPU_COUNT", 1))
ALLOW = os.environ.get("MAX_INPUTS")
app = modal.App(os.environ.get("APP_NAME", "by-env"))
image = modal.Image.from_dockerfile("Dockerfile", add_python="3.11") if modal.is_local() else modal.Image.debian_slim()

@app.cls(image=image, gpu=f"{GPU}:{GPU_COUNT}", scaledown_window=int(os.environ.get("WINDOW", "300")), secrets=[modal.Secret.from_dotenv()])
class Model:
    @modal.enter()
    def load(self):
        from transformers import AutoModel
        self.model = AutoModel.from_pretrained(os.environ["MODEL_ID"]).cuda()

    @modal.method()
    def run(self, texts: list[str]):
        return self.model(texts)
'''),
    "parameters and options": ("", '''
import modal

app = modal.App("params")

@app.cls(scaledown_window=2)
class Worker:
    size: int = modal.parameter(default=3)
    name: str = modal.parameter(init=False)
    token: str = modal.parameter(default="start-of-sequence")

    @modal.enter()
    def setup(self):
        self.name = f"w{self.size}"
        self.cache = {}

    @modal.method(is_generator=True)
    def count(self, n: int):
        yield from range(n)

    @modal.exit()
    def close(self):
        self.cache.clear()

@app.local_entrypoint()
def main(*arglist):
    worker = Worker.with_options(gpu="T4", max_containers=2)(size=4)
    print(list(worker.count.remote_gen(3)))
    Worker.with_concurrency(max_inputs=4)().count.spawn(1)
    with modal.enable_output():
        print(modal.config.config.to_dict())
'''),
    "app.run": ("", '''
import modal

app = modal.App("scripted")

@app.function(image=modal.Image.debian_slim().uv_pip_install("numpy==2.1.0"))
def sum_of(n: int) -> int:
    import numpy
    return int(numpy.arange(n).sum())

if __name__ == "__main__":
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--token", default="none")
    parser.add_argument("--password")
    with modal.enable_output(), app.run(detach=True):
        print(sum_of.remote(10))
        for error in sum_of.map([1, 2], return_exceptions=True, order_outputs=False):
            print(error)
'''),
    "lazy and cached": ("", '''
import functools
import modal

vol = modal.Volume.from_name("hub", create_if_missing=True)
app = modal.App("lazy", image=modal.Image.debian_slim().uv_pip_install("sentence-transformers==5.1.0"))

@functools.lru_cache(maxsize=2)
def encoder(name: str):
    from sentence_transformers import SentenceTransformer
    return SentenceTransformer(name)

@app.function(volumes={"/root/.cache/huggingface": vol}, cpu=4)
def encode(texts: list[str], name: str = "BAAI/bge-small-en-v1.5") -> list[list[float]]:
    return encoder(name).encode(texts).tolist()

@app.cls(volumes={"/root/.cache/huggingface": vol})
class Router:
    @modal.enter()
    def setup(self):
        self._models = {}

    @modal.method()
    def run(self, name: str, texts: list[str]):
        if name not in self._models:
            from sentence_transformers import CrossEncoder
            self._models[name] = CrossEncoder(name)
        return self._models[name].predict(texts)
'''),
    "data per call": ("", '''
import modal

data = modal.Volume.from_name("scans")
app = modal.App("scans", image=modal.Image.debian_slim().uv_pip_install("torch==2.8.0", "nibabel==5.3.2"))

@app.function(volumes={"/scans": data.with_mount_options(read_only=True)}, timeout=300)
def mean(name: str) -> float:
    import torch
    tensor = torch.load(f"/scans/{name}.pt", map_location="cpu")
    return float(tensor.mean())

@app.function(volumes={"/scans": data})
def convert(path: str):
    import nibabel
    import torch
    torch.save(torch.tensor(nibabel.load(path).get_fdata()), path + ".pt")
    data.commit()

@app.local_entrypoint()
def main():
    print(max(mean.map(["a", "b"])))
'''),
    "try imports": ("", '''
import modal

try:
    import torch
except ImportError:
    torch = None
try:
    from typing import Annotated
except ImportError:
    from typing_extensions import Annotated

if modal.is_local():
    local_id = "local"
else:
    local_id = "remote"
image = modal.Image.micromamba(python_version="3.11").micromamba_install("pymc==5.16.2", channels=["conda-forge"])
app = modal.App("tries", image=image)

@app.function(nonpreemptible=False, max_inputs=1) if False else app.function(single_use_containers=True)
def once(x: Annotated[int, "number"]) -> str:
    return f"{local_id} {x} {modal.current_input_id()} {modal.current_function_call_id()}"
'''),
    "temporary databases": ("", '''
import sqlite3
import tempfile
from pathlib import Path
import modal

vol = modal.Volume.from_name("exports", create_if_missing=True)
app = modal.App("exports", image=modal.Image.debian_slim().uv_pip_install("filelock==3.16.1"))

@app.function(volumes={"/exports": vol})
def export(rows: list[tuple[str, int]], name: str) -> str:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x.db"
        db = sqlite3.connect(path)
        db.execute("create table t(a, b)")
        db.executemany("insert into t values (?, ?)", rows)
        db.commit()
        db.close()
        Path(f"/exports/{name}.db").write_bytes(path.read_bytes())
    vol.commit()
    return name

@app.function(volumes={"/exports": vol})
def read(name: str) -> int:
    import filelock
    with filelock.FileLock("/tmp/read.lock"):
        return sqlite3.connect(f"file:/exports/{name}.db?mode=ro", uri=True).execute("select count(*) from t").fetchone()[0]
'''),
    "one writer": ("", '''
import sqlite3
import modal

vol = modal.Volume.from_name("state", create_if_missing=True)
app = modal.App("one-writer")

@app.cls(volumes={"/state": vol}, max_containers=1)
@modal.concurrent(max_inputs=20)
class Ledger:
    @modal.enter()
    def connect(self):
        self.db = sqlite3.connect("/state/ledger.db", check_same_thread=False)
        self.db.execute("create table if not exists entries(amount int)")

    @modal.method()
    def add(self, amount: int) -> int:
        self.db.execute("insert into entries values (?)", (amount,))
        self.db.commit()
        return self.db.execute("select sum(amount) from entries").fetchone()[0]
'''),
    "vector database": ("STK019", '''
import modal

vol = modal.Volume.from_name("chroma", create_if_missing=True)
app = modal.App("search", image=modal.Image.debian_slim().uv_pip_install("chromadb==0.5.23", "fastapi[standard]==0.115.6"))

@app.cls(volumes={"/db": vol})
@modal.concurrent(max_inputs=20)
class Search:
    @modal.enter()
    def open(self):
        import chromadb
        self.collection = chromadb.PersistentClient(path="/db/chroma").get_or_create_collection("docs")

    @modal.method()
    def add(self, ids: list[str], documents: list[str]):
        self.collection.add(ids=ids, documents=documents)
        vol.commit()

    @modal.fastapi_endpoint()
    def query(self, q: str):
        return self.collection.query(query_texts=[q], n_results=5)["ids"]
'''),
    "snapshot done right": ("", '''
import time
import modal

image = (
    modal.Image.debian_slim(python_version="3.12")
    .uv_pip_install("torch==2.8.0", "transformers==4.57.0", "aiohttp==3.11.10", "requests==2.32.3")
    .env({"HF_HUB_CACHE": "/hub"})
)
app = modal.App("right", image=image)
hub = modal.Volume.from_name("hub", create_if_missing=True)

@app.cls(gpu="A10", volumes={"/hub": hub}, enable_memory_snapshot=True, scaledown_window=15)
@modal.concurrent(max_inputs=8)
class Model:
    @modal.enter(snap=True)
    def load(self):
        import requests
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        self.tokenizer = AutoTokenizer.from_pretrained("org/classifier")
        self.model = AutoModelForSequenceClassification.from_pretrained("org/classifier")
        self.labels = requests.get("https://labels.example.com/list.json", timeout=10).json()

    @modal.enter(snap=False)
    async def setup(self):
        import aiohttp
        self.model.to("cuda")
        self.session = aiohttp.ClientSession()

    @modal.method()
    def classify(self, text: str) -> str:
        started = time.monotonic()
        label = self.labels[int(self.model(**self.tokenizer(text, return_tensors="pt").to("cuda")).logits.argmax())]
        print(time.monotonic() - started)
        return label
'''),
    "secrets of all kinds": ("", '''
import os
import modal

app = modal.App("secretive", image=modal.Image.debian_slim().uv_pip_install("openai==1.57.0", "anthropic==0.40.0"))
SECRET_NAME = "my-custom-secret-2"
KEYS = {"OPENAI_API_KEY": "openai", "ANTHROPIC_API_KEY": "anthropic"}

@app.function(secrets=[
    modal.Secret.from_name(SECRET_NAME),
    modal.Secret.from_dict({"MODE": "production", "API_KEY": os.environ.get("API_KEY", "")}),
    modal.Secret.from_local_environ(["WANDB_API_KEY"]) if modal.is_local() else modal.Secret.from_dict({}),
    *(modal.Secret.from_name(f"{value}-secret", required_keys=[name]) for name, value in KEYS.items()),
])
def ask(question: str):
    import openai
    client = openai.OpenAI(api_key=os.environ["OPENAI_API_KEY"])
    local = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="not-needed")
    assert os.getenv("API_TOKEN", "") != "changeme"
    return client.responses.create(model="gpt-4o", input=question), local
'''),
    "threads and processes": ("", '''
import concurrent.futures
import subprocess
import modal

image = modal.Image.debian_slim(python_version="3.12").apt_install("ffmpeg").uv_pip_install("yt-dlp==2024.12.13")
bucket = modal.CloudBucketMount("videos", bucket_endpoint_url="https://account.r2.example.com", secret=modal.Secret.from_name("r2"))
app = modal.App("clips", image=image)

@app.function(volumes={"/videos": bucket}, cpu=8, memory=8192, timeout=1800, retries=modal.Retries(max_retries=2))
def cut(name: str, starts: list[float]) -> int:
    def one(start: float) -> int:
        return subprocess.run(["ffmpeg", "-ss", str(start), "-t", "5", "-i", f"/videos/{name}", f"/tmp/{start}.mp4"]).returncode

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(one, starts))
    with concurrent.futures.ProcessPoolExecutor() as processes:
        return sum(processes.map(abs, codes))

@app.function(timeout=120)
async def lengths(urls: list[str]) -> list[float]:
    import asyncio
    process = await asyncio.create_subprocess_exec("ffprobe", *urls, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    await asyncio.sleep(1)
    return [float(line) for line in out.split()]
'''),
    "torch hub": ("STK001 STK005 STK004", '''
import modal

app = modal.App("midas", image=modal.Image.debian_slim(python_version="3.11").uv_pip_install("torch==2.5.1", "timm==1.0.12", "opencv-python-headless==4.10.0.84"))

@app.cls(gpu="T4", scaledown_window=120)
class Depth:
    @modal.enter()
    def load(self):
        import torch
        self.net = torch.hub.load("intel-isl/MiDaS", "DPT_Large").to("cuda").eval()

    @modal.method()
    def depth(self, image: bytes) -> bytes:
        return self.net(image).cpu().numpy().tobytes()
'''),
    "weights in the image": ("STK004", '''
import modal

image = (
    modal.Image.from_registry("pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime")
    .apt_install("git", "wget", "libgl1")
    .pip_install("segment-anything==1.0", "opencv-python==4.10.0.84")
    .run_commands("wget -q https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth -P /weights")
    .add_local_dir("assets", "/assets")
)
app = modal.App("sam", image=image)

@app.cls(gpu="A10G", enable_memory_snapshot=True, experimental_options={"enable_gpu_snapshot": True})
class Sam:
    @modal.enter(snap=True)
    def load(self):
        from segment_anything import sam_model_registry
        self.model = sam_model_registry["vit_h"](checkpoint="/weights/sam_vit_h_4b8939.pth").to("cuda")

    @modal.method()
    def segment(self, image: bytes) -> list[dict]:
        return self.model(image)
'''),
    "cron strings": ("STK017", '''
import modal

app = modal.App("timers")
HOURLY, BROKEN = "0 * * * *", "*/0 * * *"

@app.function(schedule=modal.Cron(HOURLY))
def hourly():
    pass

@app.function(schedule=modal.Cron(BROKEN))
def broken():
    pass

@app.function(schedule=modal.Cron("0 8-18/2 1,15 JAN,JUL MON-FRI", timezone="Asia/Kolkata"))
def office():
    pass
'''),
    "misspelt options": ("STK014 STK016", '''
import modal

app = modal.App("slips")

@app.function(gpu="H10O", time_out=300)
def first(x: int) -> int:
    return x

@app.cls(max_container=2)
class Second:
    @modal.method()
    def run(self, x: int) -> int:
        return x
'''),
}  # fmt: skip
