"""The same API with Stable Diffusion: pictures instead of videos, on a smaller GPU, several at a time.

modal run stable_diffusion.py --prompt "a cat on a bench in front of a lake at sunset" --images 4
"""

import uuid

import modal
from app import image, model_vol, output_vol

MODEL_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"

app = modal.App("example-diffusion-stable-diffusion")

with image.imports():
    import torch
    from diffusers import DiffusionPipeline


@app.cls(
    image=image.add_local_python_source("app"),
    volumes={"/models": model_vol, "/outputs": output_vol},
    gpu=["L40S", "H100"],
    timeout=5 * 60,
    scaledown_window=5 * 60,
    retries=2,
)
class DiffusionAPI:
    @modal.enter()
    def load_model(self):
        self.pipe = DiffusionPipeline.from_pretrained(MODEL_ID, torch_dtype=torch.bfloat16)
        self.pipe.to("cuda" if torch.cuda.is_available() else "cpu")

    @modal.method()
    def generate(self, prompt: str, **kwargs) -> list[str]:
        paths = []
        for picture in self.pipe(prompt=prompt, **kwargs).images:
            paths.append(f"/outputs/{uuid.uuid4()}.png")
            picture.save(paths[-1])
        output_vol.commit()
        return paths


@app.local_entrypoint()
def main(
    prompt: str = "a cat on a bench in front of a lake at sunset",
    steps: int = 30,
    width: int = 512,
    height: int = 512,
    images: int = 1,
):
    paths = DiffusionAPI().generate.remote(
        prompt, num_inference_steps=steps, width=width, height=height, num_images_per_prompt=images
    )
    print("\n".join(paths))
