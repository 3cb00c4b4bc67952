"""The same API with Mochi: a larger text-to-video model, for which ten minutes per call are no luxury.

modal run mochi.py --prompt "a cat on a bench in front of a lake at sunset"
"""

import uuid

import modal
from app import image, model_vol, output_vol

MODEL_ID = "genmo/mochi-1-preview"

app = modal.App("example-diffusion-mochi")

with image.imports():
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import export_to_video


@app.cls(
    image=image.add_local_python_source("app"),
    volumes={"/models": model_vol, "/outputs": output_vol},
    gpu="H100",
    timeout=10 * 60,
    scaledown_window=15 * 60,
    retries=2,  # minutes of work should not be lost to a passing error
)
class DiffusionAPI:
    @modal.enter()
    def load_model(self):
        self.pipe = DiffusionPipeline.from_pretrained(MODEL_ID, torch_dtype=torch.bfloat16)
        self.pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        self.pipe.vae.enable_tiling()  # decodes frame by frame in pieces; without it even 80 GB are too little

    @modal.method()
    def generate(self, prompt: str, **kwargs) -> str:
        frames = self.pipe(prompt=prompt, **kwargs).frames[0]
        output_path = f"/outputs/{uuid.uuid4()}.mp4"
        export_to_video(frames, output_path, fps=30)
        output_vol.commit()
        return output_path


@app.local_entrypoint()
def main(
    prompt: str = "a cat on a bench in front of a lake at sunset",
    steps: int = 64,
    width: int = 848,
    height: int = 480,
    frames: int = 85,
):
    print(
        DiffusionAPI().generate.remote(prompt, num_inference_steps=steps, width=width, height=height, num_frames=frames)
    )
