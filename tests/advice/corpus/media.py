"""Apps that make or read images, sound and video, and those of science."""

APPS = {
    "text to image": ("STK007", '''
from pathlib import Path
import random
import modal

CACHE_DIR = "/cache"
cache_vol = modal.Volume.from_name("hf-hub-cache", create_if_missing=True)
image = (
    modal.Image.from_registry("nvidia/cuda:12.8.0-devel-ubuntu22.04", add_python="3.12")
    .entrypoint([])
    .apt_install("git")
    .uv_pip_install("diffusers==0.34.0", "torch==2.7.1", "transformers~=4.53.0", extra_index_url="https://download.pytorch.org/whl/cu128")
    .env({"HF_HUB_CACHE": CACHE_DIR})
)
with image.imports():
    import diffusers
    import torch

app = modal.App("text-to-image", image=image)

@app.cls(gpu="H100", timeout=10 * 60, volumes={CACHE_DIR: cache_vol}, enable_memory_snapshot=True,
         experimental_options={"enable_gpu_snapshot": True})
class Inference:
    @modal.enter(snap=True)
    def initialize(self):
        self.pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(
            "adamo1139/stable-diffusion-3.5-large-turbo-ungated", torch_dtype=torch.bfloat16
        ).to("cuda")

    @modal.method()
    def run(self, prompt: str, batch_size: int = 4, seed: int | None = None) -> list[bytes]:
        torch.random.manual_seed(seed if seed is not None else random.randint(0, 2**32 - 1))
        return [b"" for _ in self.pipe(prompt, num_images_per_prompt=batch_size).images]

@app.local_entrypoint()
def entrypoint(samples: int = 4, prompt: str = "a hat"):
    for i in range(samples):
        for image_bytes in Inference().run.remote(prompt):
            (Path("/tmp") / f"{i}.png").write_bytes(image_bytes)
'''),
    "video, five minutes": ("STK006 STK005 STK007", '''
import modal

image = (
    modal.Image.debian_slim(python_version="3.12")
    .uv_pip_install("accelerate==1.6.0", "diffusers==0.33.1", "torch==2.7.0", "imageio-ffmpeg==0.5.1")
    .env({"HF_HOME": "/models"})
)
app = modal.App("ltx-video", image=image)
models = modal.Volume.from_name("ltx-model", create_if_missing=True)
outputs = modal.Volume.from_name("outputs", create_if_missing=True)

@app.cls(volumes={"/outputs": outputs, "/models": models}, gpu="H100", scaledown_window=60)
class LTX:
    @modal.enter()
    def load_model(self):
        import torch
        from diffusers import DiffusionPipeline
        self.pipe = DiffusionPipeline.from_pretrained("Lightricks/LTX-Video", torch_dtype=torch.bfloat16)
        self.pipe.to("cuda")

    @modal.method()
    def generate(self, prompt, num_frames=200):
        from diffusers.utils import export_to_video
        frames = self.pipe(prompt=prompt, num_frames=num_frames).frames[0]
        export_to_video(frames, "/outputs/x.mp4")
        outputs.commit()
        return "x.mp4"
'''),
    "comfyui": ("STK007", '''
import json
import subprocess
import uuid
from pathlib import Path
import modal

image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git")
    .pip_install("fastapi[standard]==0.115.4", "comfy-cli==1.5.3")
    .run_commands("comfy --skip-prompt install --fast-deps --nvidia --version 0.3.71")
)

def hf_download():
    from huggingface_hub import hf_hub_download
    flux = hf_hub_download(repo_id="Comfy-Org/flux1-schnell", filename="flux1-schnell-fp8.safetensors", cache_dir="/cache")
    subprocess.run(f"ln -s {flux} /root/comfy/ComfyUI/models/checkpoints/flux1-schnell-fp8.safetensors", shell=True, check=True)

vol = modal.Volume.from_name("hf-hub-cache", create_if_missing=True)
image = (
    image.uv_pip_install("huggingface-hub==0.36.0")
    .env({"HF_XET_HIGH_PERFORMANCE": "1"})
    .run_function(hf_download, volumes={"/cache": vol})
)
image = image.add_local_file(Path(__file__).parent / "workflow_api.json", "/root/workflow_api.json")
app = modal.App(name="example-comfyapp", image=image)

@app.function(max_containers=1, gpu="L40S", volumes={"/cache": vol})
@modal.concurrent(max_inputs=10)
@modal.web_server(8000, startup_timeout=60)
def ui():
    subprocess.Popen("comfy launch -- --listen 0.0.0.0 --port 8000", shell=True)

@app.cls(scaledown_window=300, gpu="L40S", volumes={"/cache": vol}, timeout=1500)
@modal.concurrent(max_inputs=5)
class ComfyUI:
    port: int = 8000

    @modal.enter()
    def launch_comfy_background(self):
        subprocess.run(f"comfy launch --background -- --port {self.port}", shell=True, check=True)

    @modal.method()
    def infer(self, workflow_path: str = "/root/workflow_api.json"):
        subprocess.run(f"comfy run --workflow {workflow_path} --wait --timeout 1200 --verbose", shell=True, check=True)
        return next(Path("/root/comfy/ComfyUI/output").iterdir()).read_bytes()

    @modal.fastapi_endpoint(method="POST")
    def api(self, item: dict):
        workflow = json.loads(Path("/root/workflow_api.json").read_text())
        client_id = uuid.uuid4().hex
        Path(f"{client_id}.json").write_text(json.dumps(workflow))
        return {"bytes": len(self.infer.local(f"{client_id}.json"))}
'''),
    "whisper": ("STK002 STK005 STK004", '''
import modal

vol = modal.Volume.from_name("whisper-cache", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11").apt_install("ffmpeg").pip_install("openai-whisper==20240930", "torch==2.5.1")
app = modal.App("transcribe", image=image)

@app.cls(gpu="T4", volumes={"/models": vol})
class Whisper:
    @modal.enter()
    def load(self):
        import whisper
        self.model = whisper.load_model("large-v3")

    @modal.method()
    def transcribe(self, audio: bytes) -> str:
        with open("/tmp/a.mp3", "wb") as file:
            file.write(audio)
        return self.model.transcribe("/tmp/a.mp3")["text"]
'''),
    "whisper, batched": ("STK007", '''
from typing import Optional
import modal

MODEL_DIR = "/model"
MODEL_NAME = "openai/whisper-large-v3"
image = (
    modal.Image.debian_slim(python_version="3.12")
    .uv_pip_install("torch==2.5.1", "transformers==4.47.1", "huggingface_hub==0.36.0", "librosa==0.10.2", "accelerate==1.2.1")
    .env({"HF_XET_HIGH_PERFORMANCE": "1", "HF_HUB_CACHE": MODEL_DIR})
)
model_cache = modal.Volume.from_name("hf-hub-cache", create_if_missing=True)
app = modal.App("batched-whisper", image=image, volumes={MODEL_DIR: model_cache})

@app.cls(gpu="a10g", max_containers=10, enable_memory_snapshot=True, experimental_options={"enable_gpu_snapshot": True})
class Model:
    @modal.enter(snap=True)
    def load_model(self):
        import torch
        from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline
        self.processor = AutoProcessor.from_pretrained(MODEL_NAME)
        self.model = AutoModelForSpeechSeq2Seq.from_pretrained(MODEL_NAME, torch_dtype=torch.float16).to("cuda")
        self.pipeline = pipeline(
            "automatic-speech-recognition", model=self.model, tokenizer=self.processor.tokenizer,
            feature_extractor=self.processor.feature_extractor, torch_dtype=torch.float16, device="cuda",
        )

    @modal.batched(max_batch_size=64, wait_ms=1000)
    def transcribe(self, audio_samples: list[bytes]) -> list[Optional[str]]:
        return [each["text"] for each in self.pipeline(audio_samples, batch_size=len(audio_samples))]

@app.local_entrypoint()
async def main():
    async for line in Model().transcribe.map.aio([b""]):
        print(line)
'''),
    "faster-whisper": ("STK001 STK005 STK010 STK004", '''
from modal import App, Image, enter, fastapi_endpoint

image = Image.from_registry("nvidia/cuda:12.3.2-cudnn9-runtime-ubuntu22.04", add_python="3.11").pip_install("faster-whisper", "fastapi")
app = App("faster-whisper")

@app.cls(image=image, gpu="A10G", scaledown_window=60)
class Speech:
    @enter()
    def setup(self):
        from faster_whisper import WhisperModel
        self.model = WhisperModel("large-v3", device="cuda", compute_type="float16")

    @fastapi_endpoint(method="POST")
    def transcribe(self, url: str):
        segments, _ = self.model.transcribe(url)
        return [segment.text for segment in segments]
'''),
    "music": ("STK005", '''
import modal

image = (
    modal.Image.debian_slim(python_version="3.12").apt_install("git", "ffmpeg")
    .uv_pip_install("huggingface_hub[hf_transfer]==0.27.1", "torch==2.1.0", "git+https://github.com/facebookresearch/audiocraft.git@v1.3.0")
    .env({"HF_HUB_CACHE": "/cache/hub", "TORCH_HOME": "/cache/torch"})
)
cache = modal.Volume.from_name("audiocraft-model-cache", create_if_missing=True)
app = modal.App("musicgen")

@app.cls(gpu="l40s", image=image, volumes={"/cache": cache}, scaledown_window=120)
class MusicGen:
    @modal.enter()
    def init(self):
        import audiocraft.models
        self.model = audiocraft.models.MusicGen.get_pretrained("facebook/musicgen-large")

    @modal.method()
    def generate(self, prompt: str, duration: int = 10) -> bytes:
        self.model.set_generation_params(duration=duration)
        return self.model.generate([prompt]).cpu().numpy().tobytes()
'''),
    "speech": ("STK005", '''
import io
import modal

image = modal.Image.debian_slim(python_version="3.10").uv_pip_install("chatterbox-tts==0.1.6", "fastapi[standard]==0.124.4", "peft==0.18.0")
app = modal.App("chatterbox-tts", image=image)
with image.imports():
    import torchaudio as ta
    from chatterbox.tts_turbo import ChatterboxTurboTTS
    from fastapi.responses import StreamingResponse

@app.cls(gpu="a10g", scaledown_window=60 * 5, secrets=[modal.Secret.from_name("hf-token")],
         volumes={"/root/.cache/huggingface": modal.Volume.from_name("hf-hub-cache", create_if_missing=True)})
@modal.concurrent(max_inputs=10)
class Chatterbox:
    @modal.enter()
    def load(self):
        self.model = ChatterboxTurboTTS.from_pretrained(device="cuda")

    @modal.fastapi_endpoint(docs=True, method="POST")
    def generate(self, prompt: str):
        buffer = io.BytesIO()
        ta.save(buffer, self.model.generate(prompt), self.model.sr, format="wav")
        buffer.seek(0)
        return StreamingResponse(buffer, media_type="audio/wav")
'''),
    "folding": ("STK007", '''
from pathlib import Path
import modal

here = Path(__file__).parent
app = modal.App(name="chai1-inference")
image = modal.Image.debian_slim(python_version="3.12").run_commands("uv pip install --system --compile-bytecode chai_lab==0.5.0")
chai_model_volume = modal.Volume.from_name("chai1-models", create_if_missing=True)
models_dir = Path("/models/chai1")
image = image.env({"CHAI_DOWNLOADS_DIR": str(models_dir)})
preds = modal.Volume.from_name("chai1-preds", create_if_missing=True)

@app.function(timeout=15 * 60, gpu="H100", volumes={models_dir: chai_model_volume, Path("/preds"): preds}, image=image)
def chai1_inference(fasta_content: str, inference_config: dict, run_id: str) -> list[tuple[bytes, str]]:
    import torch
    from chai_lab import chai1
    fasta_file = Path("/tmp/inputs.fasta")
    fasta_file.write_text(fasta_content.strip())
    output_dir = Path("/preds") / run_id
    chai1.run_inference(fasta_file=fasta_file, output_dir=output_dir, device=torch.device("cuda"), **inference_config)
    preds.commit()
    return [(file.read_bytes(), file.name) for file in output_dir.iterdir()]

@app.local_entrypoint()
def main(fasta_file: str = str(here / "data" / "default.fasta")):
    print(chai1_inference.remote(Path(fasta_file).read_text(), {"num_trunk_recycles": 3}, "x"))
'''),
    "object detection": ("STK001 STK004 STK005 STK010", '''
import modal

app = modal.App("detr")
image = modal.Image.debian_slim().pip_install("torch", "timm", "transformers", "Pillow")

@app.cls(gpu="T4", image=image)
class ObjectDetection:
    @modal.enter()
    def load_model(self):
        from transformers import DetrForObjectDetection, DetrImageProcessor
        repo_id = "facebook/detr-resnet-50"
        self.feature_extractor = DetrImageProcessor.from_pretrained(repo_id)
        self.model = DetrForObjectDetection.from_pretrained(repo_id).to("cuda")

    @modal.method()
    def detect(self, img_data_in: bytes):
        return self.model(**self.feature_extractor(img_data_in, return_tensors="pt"))
'''),
    "blender": ("", '''
from pathlib import Path
import modal

app = modal.App("blender")
rendering_image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("xorg", "libxkbcommon0")
    .uv_pip_install("bpy==4.5.0")
)

@app.function(gpu="L40S" if True else None, max_containers=10, image=rendering_image, retries=2)
def render(blend_file: bytes, frame_number: int = 0) -> bytes:
    import bpy
    Path("/tmp/input.blend").write_bytes(blend_file)
    bpy.ops.wm.open_mainfile(filepath="/tmp/input.blend")
    bpy.context.scene.frame_set(frame_number)
    bpy.ops.render.render(write_still=True)
    return Path("/tmp/output.png").read_bytes()

@app.local_entrypoint()
def main(frame_count: int = 250):
    args = [(Path("x.blend").read_bytes(), frame) for frame in range(1, frame_count + 1)]
    images = list(render.starmap(args))
    print(len(images))
'''),
    "weights by wget": ("STK008 STK005 STK009", '''
import subprocess
import modal

image = modal.Image.from_registry("pytorch/pytorch").apt_install("wget")
app = modal.App("gfpgan")

@app.cls(image=image, gpu="A10G")
@modal.concurrent(max_inputs=2)
class Restore:
    @modal.enter()
    def load_model(self):
        subprocess.run(["wget", "-q", "https://github.com/x/y/releases/download/v1/GFPGANv1.4.pth", "-P", "/weights"], check=True)
        import torch
        self.net = torch.load("/weights/GFPGANv1.4.pth").to("cuda")

    @modal.method()
    def restore(self, image: bytes) -> bytes:
        return self.net(image)
'''),
    "short window": ("STK003 STK005 STK004", '''
import modal

image = modal.Image.debian_slim(python_version="3.11").pip_install("torch==2.5.1", "open_clip_torch==2.29.0")
vol = modal.Volume.from_name("clip", create_if_missing=True)
app = modal.App("clip")

@app.cls(image=image, gpu="T4", volumes={"/root/.cache/huggingface": vol}, scaledown_window=10)
class Clip:
    @modal.enter()
    def load(self):
        import open_clip
        self.model, _, self.preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained="laion2b_s34b_b79k")
        self.model.to("cuda")

    @modal.method()
    def score(self, image: bytes, text: str) -> float:
        return float(self.model.encode_image(self.preprocess(image)) @ self.model.encode_text(text))
'''),
    "long window": ("STK003", '''
import modal

app = modal.App("warm-worker")
image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("torch==2.8.0")

@app.function(image=image, gpu="A100-80GB", scaledown_window=3600)
def train_step(batch: list[int]) -> float:
    import torch
    return float(torch.tensor(batch, device="cuda").float().mean())
'''),
}  # fmt: skip
