"""The API of `app.py` from a memory snapshot: a cold start brings the loaded model back instead of loading it.

modal deploy snapshot.py

Compared with `app.py`: the last four options, and `snap=True`.
"""

import uuid

import modal
from app import MODEL_ID, image, model_vol, output_vol

app = modal.App("example-diffusion-snapshot")

with image.imports():
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import export_to_video


@app.cls(
    image=image.add_local_python_source("app"),
    volumes={"/models": model_vol, "/outputs": output_vol},
    gpu="H100",
    timeout=10 * 60,
    scaledown_window=5 * 60,  # a cold start is cheap now, so that the GPU need not idle for long
    retries=2,
    enable_memory_snapshot=True,
    experimental_options={"enable_gpu_snapshot": True},  # what lies in GPU memory is part of the snapshot
)
class DiffusionAPI:
    @modal.enter(snap=True)  # before the snapshot is taken
    def load_model(self):
        self.pipe = DiffusionPipeline.from_pretrained(MODEL_ID, torch_dtype=torch.bfloat16)
        self.pipe.to("cuda" if torch.cuda.is_available() else "cpu")

    @modal.method()
    def generate(self, prompt: str, **kwargs) -> str:
        frames = self.pipe(prompt=prompt, **kwargs).frames[0]
        output_path = f"/outputs/{uuid.uuid4()}.mp4"
        export_to_video(frames, output_path)
        output_vol.commit()
        return output_path
