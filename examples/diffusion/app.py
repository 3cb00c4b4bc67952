"""A text-to-video model as an API: weights on one Volume, videos on another, one GPU class between them.

modal run app.py --prompt "a cat on a bench in front of a lake at sunset"
modal deploy app.py          # then POST prompts to the URL it prints

Nothing here knows about Stoker: this is an ordinary Modal app, and `modal run` finds it the server.
"""

import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import modal

MODEL_ID = "Lightricks/LTX-Video"

app = modal.App("example-diffusion")
model_vol = modal.Volume.from_name("example-diffusion-models", create_if_missing=True)
output_vol = modal.Volume.from_name("example-diffusion-outputs", create_if_missing=True)

image = (
    modal.Image.debian_slim(python_version="3.11")
    .entrypoint([])
    .uv_pip_install(
        "torch==2.13.0",
        "diffusers==0.42.1",
        "transformers==5.23.0",
        "accelerate==1.15.0",
        "imageio[ffmpeg]==2.38.1",  # export_to_video writes through it
        "sentencepiece==0.2.3",  # the T5 tokenizer, as the model's authors publish it
        "protobuf==7.36.2",
    )
    .env(
        {
            "HF_HUB_CACHE": "/models",
            "HF_HUB_OFFLINE": "1",  # the Volume is the only source: a cold start never turns into a download
            "OMP_NUM_THREADS": "1",  # the GPU does the work; more CPU threads only get in each other's way
        }
    )
)

web_image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("fastapi[standard]==0.142.2")

with image.imports():
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import export_to_video


@app.cls(
    image=image,
    volumes={"/models": model_vol, "/outputs": output_vol},
    gpu="H100",
    timeout=10 * 60,
    scaledown_window=15 * 60,
)
class DiffusionAPI:
    @modal.enter()
    def load_model(self):
        self.pipe = DiffusionPipeline.from_pretrained(MODEL_ID, torch_dtype=torch.bfloat16)
        # On a server that only declares its GPU (`stoker up --fake-gpus`) there is no CUDA to move to.
        self.pipe.to("cuda" if torch.cuda.is_available() else "cpu")

    @modal.method()
    def generate(self, prompt: str, **kwargs) -> str:
        frames = self.pipe(prompt=prompt, **kwargs).frames[0]
        output_path = f"/outputs/{uuid.uuid4()}.mp4"
        export_to_video(frames, output_path)
        output_vol.commit()
        return output_path


@dataclass
class GenerationRequest:
    prompt: str
    steps: int = 50


@app.function(image=web_image)
@modal.fastapi_endpoint(method="POST", docs=True)
def inference_api(request: GenerationRequest):
    result = DiffusionAPI().generate.remote(
        prompt=request.prompt,
        num_inference_steps=request.steps
    )  # fmt: skip
    return {"filename": result}


@app.function(image=web_image, volumes={"/outputs": output_vol})
@modal.fastapi_endpoint(method="GET", docs=True)
def video(filename: str):
    """Serves what `inference_api` named."""
    from fastapi import HTTPException
    from fastapi.responses import FileResponse

    output_vol.reload()  # the video may be younger than this container
    path = Path("/outputs", Path(filename).name)
    if not path.is_file():
        raise HTTPException(404, f"There is no video {path.name}.")
    return FileResponse(path, media_type="video/mp4")


@app.local_entrypoint()
def main(
    prompt: str = "a cat on a bench in front of a lake at sunset",
    negative_prompt: str = "worst quality, inconsistent motion, blurry, jittery, distorted",
    steps: int = 50,
    width: int = 704,
    height: int = 480,
    frames: int = 161,
    calls: int = 1,
):
    model = DiffusionAPI()
    for call in range(1, calls + 1):
        started = time.monotonic()
        path = model.generate.remote(
            prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=steps,
            width=width,
            height=height,
            num_frames=frames,
        )
        print(f"call {call}: {path} in {time.monotonic() - started:.2f} s")
