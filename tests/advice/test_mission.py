"""The pairs of wrong and right code that everyone who deploys models meets first."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.advice.check import check_paths
from stoker.advice.finding import Severity
from tests.advice.cases import check, fixed, rules

EXAMPLES = Path(__file__).parents[2] / "examples"

SNAPSHOT_WRONG = """
import modal

app = modal.App("inference")

@app.cls(gpu="H100")
class Inference:
    @modal.enter()
    def load_model(self):
        self.model = load_model()
"""
SNAPSHOT_RIGHT = """
import modal

app = modal.App("inference")

@app.cls(
    gpu="H100",
    enable_memory_snapshot=True,
    experimental_options={"enable_gpu_snapshot": True}
)
class Inference:
    @modal.enter(snap=True)
    def load_model(self):
        self.model = load_model()
        self.model.to("cuda")
"""
VOLUME_WRONG = """
import modal
from diffusers import DiffusionPipeline

app = modal.App("inference")

@app.cls()
class Inference:
    @modal.enter()
    def load_model(self):
        self.model = DiffusionPipeline.from_pretrained("model-name")
"""
VOLUME_RIGHT = """
import modal
from diffusers import DiffusionPipeline

app = modal.App("inference")
model_vol = modal.Volume.from_name("model-cache", create_if_missing=True)

@app.cls(volumes={"/models": model_vol})
class Inference:
    @modal.enter()
    def load_model(self):
        # HF_HUB_CACHE points to volume mount
        self.model = DiffusionPipeline.from_pretrained("model-name")
"""
CONCURRENT_RIGHT = """
import modal

app = modal.App("scaling")

# For ComfyUI workflows (5 concurrent per container)
@app.cls(
    scaledown_window=300, # 5min keepalive
    gpu="L40S"
)
@modal.concurrent(max_inputs=5)
class ComfyUI:
    pass

# For high-throughput batch inference
@app.cls(scaledown_window=15*60) # 15min keepalive
@modal.concurrent(max_inputs=32, target_inputs=25)
class BatchInference:
    pass
"""
PATTERNS = """
import subprocess
import uuid

import modal

app = modal.App("patterns")
vol = modal.Volume.from_name("cache", create_if_missing=True)
model_vol = modal.Volume.from_name("model-cache", create_if_missing=True)
output_vol = modal.Volume.from_name("outputs", create_if_missing=True)
image = (
    modal.Image.from_registry("nvidia/cuda:12.8.1-devel-ubuntu22.04")
    .entrypoint([])  # Remove verbose logging
    .apt_install("git")
    .uv_pip_install(
        "torch==2.7.1",
        "transformers~=4.53.0",
        "diffusers",
        extra_index_url="https://download.pytorch.org/whl/cu128"
    )
    .env({"HF_HUB_CACHE": "/models"})
)
web_image = modal.Image.debian_slim().uv_pip_install("fastapi==0.115.0")

with image.imports():
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import export_to_video

@app.cls(
    image=image,
    volumes={"/models": model_vol, "/outputs": output_vol},
    gpu="H100",
    timeout=10*60,
    scaledown_window=15*60
)
class DiffusionAPI:
    @modal.enter()
    def load_model(self):
        self.pipe = DiffusionPipeline.from_pretrained(
            "model-name", torch_dtype=torch.bfloat16
        )
        self.pipe.to("cuda")

    @modal.method()
    def generate(self, prompt: str, **kwargs):
        frames = self.pipe(prompt=prompt, **kwargs).frames[0]
        output_path = f"/outputs/{uuid.uuid4()}.mp4"
        export_to_video(frames, output_path)
        output_vol.commit()
        return output_path

@app.function(image=web_image)
@modal.fastapi_endpoint(method="POST", docs=True)
def inference_api(request: GenerationRequest):
    result = DiffusionAPI().generate.remote(
        prompt=request.prompt,
        num_inference_steps=request.steps
    )
    return {"filename": result}

@app.cls(
    scaledown_window=300,
    gpu="L40S",
    volumes={"/cache": vol}
)
@modal.concurrent(max_inputs=5)
class ComfyUI:
    @modal.enter()
    def launch_server(self):
        subprocess.run(
            f"comfy launch --background -- --port {self.port}",
            shell=True, check=True
        )

    @modal.method()
    def run_workflow(self, workflow_path: str):
        subprocess.run(
            f"comfy run --workflow {workflow_path} --wait --timeout 1200",
            shell=True, check=True
        )
        return self.get_output_image()
"""


def test_a_model_loaded_at_every_cold_start() -> None:
    assert rules(SNAPSHOT_WRONG) == ["STK005"]
    corrected = fixed(SNAPSHOT_WRONG, "STK005")
    assert (
        '@app.cls(gpu="H100", enable_memory_snapshot=True, experimental_options={"enable_gpu_snapshot": True})'
        in corrected
    )
    assert "@modal.enter(snap=True)" in corrected


def test_a_model_downloaded_every_time() -> None:
    assert rules(VOLUME_WRONG) == ["STK001"]
    corrected = fixed(VOLUME_WRONG, "STK001")
    assert 'model_vol = modal.Volume.from_name("model-cache", create_if_missing=True)\n' in corrected
    assert '@app.cls(volumes={"/models": model_vol}, env={"HF_HUB_CACHE": "/models"})' in corrected


@pytest.mark.parametrize(
    "right", [SNAPSHOT_RIGHT, VOLUME_RIGHT, CONCURRENT_RIGHT], ids=["snapshot", "volume", "concurrent"]
)
def test_right_code_has_no_findings(right: str) -> None:
    assert rules(right) == []


def test_the_key_patterns_have_no_warnings() -> None:
    found = check(PATTERNS)
    assert [finding for finding in found if finding.severity is not Severity.NOTE] == []
    # What the patterns themselves call mistakes elsewhere is said as a note.
    assert {finding.rule for finding in found} == {"STK005", "STK006", "STK007", "STK010"}


def test_the_common_mistakes_are_warnings() -> None:
    mistakes = """
    import modal
    from diffusers import LTXPipeline
    from sentence_transformers import SentenceTransformer

    app = modal.App("mistakes")

    @app.cls(gpu="H100", scaledown_window=5)
    class Video:
        @modal.enter()
        def load(self):
            self.pipe = LTXPipeline.from_pretrained("Lightricks/LTX-Video").to("cuda")

        @modal.method()
        def draw(self, prompt: str):
            return self.pipe(prompt).frames[0]

    @app.cls(gpu="A10G")
    class Embed:
        @modal.enter()
        def load(self):
            self.model = SentenceTransformer("all-MiniLM-L6-v2")

        @modal.method()
        def embed(self, text: str):
            return self.model.encode(text)

    @app.local_entrypoint()
    def main():
        print(list(Embed().embed.map(["a", "b"])))
        print(list(Video().draw.map(["a", "b"])))
    """
    found = set(rules(mistakes, Severity.WARNING))
    assert found == {"STK001", "STK003", "STK004", "STK005", "STK006", "STK007"}


def test_the_examples_have_no_warnings() -> None:
    report = check_paths([EXAMPLES])
    assert len(report.files) >= 4
    assert not report.errors
    said = [f"{source.path}: {f.rule} {f.message}" for source, f in report.findings if f.severity is not Severity.NOTE]
    assert said == []
