"""Apps that serve and train language models, embeddings and other models of text."""

APPS = {
    "vllm server": ("STK004", '''
import subprocess
import modal

vllm_image = (
    modal.Image.from_registry("nvidia/cuda:12.8.1-devel-ubuntu22.04", add_python="3.12")
    .entrypoint([])
    .uv_pip_install("vllm==0.11.2", "huggingface-hub==0.36.0", "flashinfer-python==0.5.2")
    .env({"HF_XET_HIGH_PERFORMANCE": "1"})
)
MODEL_NAME = "Qwen/Qwen3-4B-Thinking-2507-FP8"
MODEL_REVISION = "953532f942706930ec4bb870569932ef63038fdf"
hf_cache_vol = modal.Volume.from_name("huggingface-cache", create_if_missing=True)
vllm_cache_vol = modal.Volume.from_name("vllm-cache", create_if_missing=True)
FAST_BOOT = True
N_GPU = 1
MINUTES = 60
VLLM_PORT = 8000
app = modal.App("example-vllm-inference")

@app.function(
    image=vllm_image,
    gpu=f"H100:{N_GPU}",
    scaledown_window=15 * MINUTES,
    timeout=10 * MINUTES,
    volumes={"/root/.cache/huggingface": hf_cache_vol, "/root/.cache/vllm": vllm_cache_vol},
)
@modal.web_server(port=VLLM_PORT, startup_timeout=10 * MINUTES)
def serve():
    cmd = ["vllm", "serve", MODEL_NAME, "--revision", MODEL_REVISION, "--host", "0.0.0.0", "--port", str(VLLM_PORT)]
    cmd += ["--enforce-eager" if FAST_BOOT else "--no-enforce-eager"]
    subprocess.Popen(" ".join(cmd), shell=True)
'''),
    "vllm server, shared": ("", '''
import subprocess
import modal

image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("vllm==0.11.2").env({"HF_HUB_CACHE": "/models"})
models = modal.Volume.from_name("models", create_if_missing=True)
app = modal.App("llm")

@app.function(image=image, gpu="L40S", volumes={"/models": models}, scaledown_window=300, secrets=[modal.Secret.from_name("hf")])
@modal.concurrent(max_inputs=100)
@modal.web_server(port=8000, startup_timeout=600)
def serve():
    subprocess.Popen(["vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct", "--port", "8000", "--api-key", "EMPTY"])

@app.local_entrypoint()
def test(content="Hello"):
    import json, urllib.request
    request = urllib.request.Request(serve.get_web_url() + "/v1/chat/completions", data=json.dumps({"q": content}).encode())
    print(urllib.request.urlopen(request).read())
'''),
    "sglang class": ("", '''
import subprocess
import time
import modal

MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
cache = modal.Volume.from_name("hf-cache", create_if_missing=True)
image = (
    modal.Image.from_registry("lmsysorg/sglang:v0.5.5")
    .env({"HF_HOME": "/cache/huggingface", "HF_XET_HIGH_PERFORMANCE": "1"})
)
app = modal.App("sglang-vlm", image=image)

def wait_ready(process, timeout=600):
    import requests
    deadline = time.time() + timeout
    while time.time() < deadline:
        try:
            requests.get("http://127.0.0.1:8000/health").raise_for_status()
            return
        except requests.exceptions.RequestException:
            time.sleep(5)

@app.cls(gpu="L40S", volumes={"/cache": cache}, scaledown_window=20 * 60 // 2, timeout=1200)
@modal.concurrent(max_inputs=50)
class Model:
    @modal.enter()
    def start(self):
        from transformers import AutoProcessor
        self.processor = AutoProcessor.from_pretrained(MODEL)
        self.process = subprocess.Popen(["python", "-m", "sglang.launch_server", "--model-path", MODEL, "--port", "8000"])
        wait_ready(self.process)

    @modal.web_server(port=8000)
    def serve(self):
        return

    @modal.exit()
    def stop(self):
        self.process.terminate()
'''),
    "transformers pipeline": ("STK001 STK005 STK004 STK010", '''
import modal

app = modal.App("sentiment")
image = modal.Image.debian_slim().pip_install("transformers", "torch")

@app.cls(image=image, gpu="T4")
class Classifier:
    @modal.enter()
    def load(self):
        from transformers import pipeline
        self.pipe = pipeline("sentiment-analysis", model="distilbert-base-uncased-finetuned-sst-2-english", device="cuda")

    @modal.method()
    def classify(self, text: str) -> str:
        return self.pipe(text)[0]["label"]

@app.local_entrypoint()
def main(text: str = "great"):
    print(Classifier().classify.remote(text))
'''),
    "load in the function": ("STK001 STK013 STK010", '''
import modal

app = modal.App("summaries")
image = modal.Image.debian_slim().pip_install("transformers==4.53.0", "torch", "sentencepiece")

@app.function(image=image, cpu=4.0)
def summarize(text: str) -> str:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("google/pegasus-xsum")
    model = AutoModelForSeq2SeqLM.from_pretrained("google/pegasus-xsum")
    ids = tokenizer(text, return_tensors="pt").input_ids
    return tokenizer.decode(model.generate(ids)[0])
'''),
    "baked by run_function": ("STK005 STK004", '''
import modal

MODEL_DIR = "/model"
BASE_MODEL = "mistralai/Mistral-7B-Instruct-v0.3"

def download_model_to_image(model_dir, model_name):
    import os
    from huggingface_hub import snapshot_download
    os.makedirs(model_dir, exist_ok=True)
    snapshot_download(model_name, local_dir=model_dir, ignore_patterns=["*.pt", "*.bin"])

image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install("vllm==0.6.3", "huggingface_hub==0.26.2", "hf-transfer==0.1.8")
    .env({"HF_HUB_ENABLE_HF_TRANSFER": "1"})
    .run_function(download_model_to_image, secrets=[modal.Secret.from_name("huggingface")], kwargs={"model_dir": MODEL_DIR, "model_name": BASE_MODEL})
)
app = modal.App("vllm-batch", image=image)

@app.cls(gpu="A100", timeout=300)
class Model:
    @modal.enter()
    def load_model(self):
        from vllm import LLM
        self.llm = LLM(MODEL_DIR, enforce_eager=True)

    @modal.method()
    def generate(self, question: str):
        return self.llm.generate([question])[0].outputs[0].text
'''),
    "embeddings, batched": ("STK007", '''
import modal

vol = modal.Volume.from_name("models", create_if_missing=True)
image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install("sentence-transformers==5.1.0", "torch==2.8.0")
    .env({"HF_HUB_CACHE": "/models/hub"})
)
app = modal.App("embed", image=image)

@app.cls(gpu="L4", volumes={"/models": vol}, scaledown_window=120, enable_memory_snapshot=True,
         experimental_options={"enable_gpu_snapshot": True})
class Embedder:
    name: str = modal.parameter(default="BAAI/bge-small-en-v1.5")

    @modal.enter(snap=True)
    def load(self):
        from sentence_transformers import SentenceTransformer
        self.model = SentenceTransformer(self.name, device="cuda")

    @modal.batched(max_batch_size=64, wait_ms=50)
    def embed(self, texts: list[str]) -> list[list[float]]:
        return self.model.encode(texts, normalize_embeddings=True).tolist()

@app.local_entrypoint()
def main():
    print(sum(1 for _ in Embedder().embed.map(["a"] * 100)))
'''),
    "text-embeddings-inference": ("STK010", '''
import socket
import subprocess
import modal

MODEL_ID = "BAAI/bge-base-en-v1.5"
LAUNCH_FLAGS = ["--model-id", MODEL_ID, "--port", "8000"]

def spawn_server() -> subprocess.Popen:
    process = subprocess.Popen(["text-embeddings-router"] + LAUNCH_FLAGS)
    while True:
        try:
            socket.create_connection(("127.0.0.1", 8000), timeout=1).close()
            return process
        except (socket.timeout, ConnectionRefusedError):
            if process.poll() is not None:
                raise RuntimeError(f"launcher exited with code {process.returncode}")

def download_model():
    spawn_server().terminate()

app = modal.App("tei")
tei_image = (
    modal.Image.from_registry("ghcr.io/huggingface/text-embeddings-inference:86-1.7", add_python="3.10")
    .dockerfile_commands("ENTRYPOINT []")
    .run_function(download_model, gpu="A10")
    .pip_install("httpx", "numpy")
)

@app.cls(gpu="A10", image=tei_image, max_containers=10, retries=3)
@modal.concurrent(max_inputs=10)
class TextEmbeddingsInference:
    @modal.enter()
    def setup_server(self):
        import httpx
        self.process = spawn_server()
        self.client = httpx.AsyncClient(base_url="http://127.0.0.1:8000")

    @modal.exit()
    def teardown_server(self):
        self.process.terminate()

    @modal.method()
    async def embed(self, inputs: list[str]):
        resp = await self.client.post("/embed", json={"inputs": inputs})
        resp.raise_for_status()
        return resp.json()
'''),
    "ollama": ("STK008", '''
import subprocess
import time
import modal

image = (
    modal.Image.debian_slim()
    .apt_install("curl", "systemctl")
    .run_commands("curl -fsSL https://ollama.com/install.sh | sh")
    .pip_install("ollama==0.4.4", "httpx==0.27.2")
)
app = modal.App("ollama", image=image)

@app.cls(gpu="A10G", scaledown_window=120)
@modal.concurrent(max_inputs=4)
class Ollama:
    @modal.enter()
    def load(self):
        subprocess.Popen(["ollama", "serve"])
        time.sleep(3)
        subprocess.run(["ollama", "pull", "llama3.2"], check=True)

    @modal.method()
    def infer(self, text: str):
        import ollama
        return ollama.chat(model="llama3.2", messages=[{"role": "user", "content": text}])["message"]
'''),
    "ollama on a volume": ("", '''
import subprocess
import modal

vol = modal.Volume.from_name("ollama-models", create_if_missing=True)
image = modal.Image.from_registry("ollama/ollama:0.12.3", add_python="3.12").entrypoint([]).env({"OLLAMA_MODELS": "/vol/ollama"})
app = modal.App("ollama-volume")

@app.cls(image=image, gpu="L4", volumes={"/vol": vol}, scaledown_window=300)
@modal.concurrent(max_inputs=8)
class Server:
    @modal.enter()
    def start(self):
        self.process = subprocess.Popen(["ollama", "serve"])
        subprocess.run("sleep 3 && ollama pull qwen3:4b", shell=True, check=True)
        vol.commit()

    @modal.web_server(port=11434)
    def serve(self):
        pass
'''),
    "fine-tuning": ("", '''
import modal

app = modal.App("unsloth-finetune")
train_image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install("accelerate==1.9.0", "datasets==3.6.0", "trl==0.19.1", "unsloth==2025.7.8", "wandb==0.21.0")
    .env({"HF_HOME": "/model_cache"})
)
with train_image.imports():
    import unsloth  # noqa: F401
    import datasets
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastLanguageModel

model_cache = modal.Volume.from_name("unsloth-model-cache", create_if_missing=True)
checkpoints = modal.Volume.from_name("unsloth-checkpoints", create_if_missing=True)

@app.function(
    image=train_image, volumes={"/model_cache": model_cache, "/checkpoints": checkpoints}, gpu="L40S", timeout=6 * 60 * 60,
    secrets=[modal.Secret.from_name("wandb-secret")], retries=modal.Retries(initial_delay=0.0, max_retries=3), single_use_containers=True,
)
def finetune(name: str = "unsloth/Qwen3-14B", max_steps: int = 1000):
    model, tokenizer = FastLanguageModel.from_pretrained(model_name=name, max_seq_length=2048, load_in_4bit=True)
    data = datasets.load_dataset("mlabonne/FineTome-100k", split="train")
    SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=data, args=SFTConfig(max_steps=max_steps)).train()
    model.save_pretrained("/checkpoints/final")
    checkpoints.commit()

@app.local_entrypoint()
def main(steps: int = 100):
    finetune.spawn(max_steps=steps).get()
'''),
    "llama.cpp": ("STK007", '''
import subprocess
import modal

model_cache = modal.Volume.from_name("llamacpp-cache", create_if_missing=True)
download_image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("huggingface_hub[hf_transfer]==0.26.2")
image = (
    modal.Image.from_registry("nvidia/cuda:12.4.0-devel-ubuntu22.04", add_python="3.12")
    .apt_install("git", "build-essential", "cmake", "curl", "libcurl4-openssl-dev")
    .run_commands("git clone https://github.com/ggerganov/llama.cpp", gpu="L40S")
    .run_commands("cmake --build llama.cpp/build --config Release -j --target llama-cli", gpu="L40S")
    .entrypoint([])
)
app = modal.App("llama-cpp")

@app.function(image=download_image, volumes={"/root/.cache/llama.cpp": model_cache}, timeout=30 * 60)
def download_model(repo_id, allow_patterns):
    from huggingface_hub import snapshot_download
    snapshot_download(repo_id=repo_id, local_dir="/root/.cache/llama.cpp", allow_patterns=allow_patterns)
    model_cache.commit()

@app.function(image=image, volumes={"/root/.cache/llama.cpp": model_cache}, gpu="L40S:4", timeout=30 * 60)
def llama_cpp_inference(model_entrypoint_file: str, prompt: str):
    command = ["/llama.cpp/llama-cli", "--model", f"/root/.cache/llama.cpp/{model_entrypoint_file}", "-p", prompt]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process.communicate()[0]
'''),
    "rag": ("STK012 STK010", '''
import os
import modal

OPENAI_API_KEY = "sk-proj-Zq8mA1nT3kLw9vXcR5yB7dE2"
app = modal.App("langchain-qanda")
image = modal.Image.debian_slim().pip_install("langchain", "openai", "faiss-cpu", "tiktoken", "beautifulsoup4")
docsearch = None

def retrieve(query: str):
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from langchain_community.vectorstores.faiss import FAISS
    global docsearch
    if docsearch is None:
        docsearch = FAISS.from_texts(["text"], OpenAIEmbeddings(api_key=OPENAI_API_KEY))
    return ChatOpenAI(model="gpt-4o").invoke(docsearch.similarity_search(query))

@app.function(image=image)
@modal.fastapi_endpoint(method="GET")
def web(query: str):
    return {"answer": retrieve(query)}
'''),
    "chat stream": ("STK011", '''
import time
import modal
import requests

image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("requests==2.32.3", "fastapi[standard]==0.115.6")
app = modal.App("proxy", image=image)

@app.function(max_containers=5)
@modal.concurrent(max_inputs=20)
@modal.fastapi_endpoint(method="POST")
async def complete(body: dict):
    time.sleep(0.1)
    return requests.post("https://api.example.com/v1/complete", json=body, timeout=60).json()
'''),
    "chat stream, awaited": ("", '''
import asyncio
import modal

image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("httpx==0.28.1", "fastapi[standard]==0.115.6")
app = modal.App("proxy-async", image=image)

@app.function(secrets=[modal.Secret.from_name("upstream", required_keys=["API_KEY"])])
@modal.concurrent(max_inputs=100, target_inputs=80)
@modal.asgi_app()
def web():
    import os
    import httpx
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse
    api = FastAPI()
    client = httpx.AsyncClient(headers={"Authorization": f"Bearer {os.environ['API_KEY']}"})

    @api.post("/v1/chat/completions")
    async def chat(request: Request):
        async def stream():
            async with client.stream("POST", "https://api.example.com", json=await request.json()) as answer:
                async for chunk in answer.aiter_bytes():
                    yield chunk
                    await asyncio.sleep(0)
        return StreamingResponse(stream())
    return api
'''),
}  # fmt: skip
