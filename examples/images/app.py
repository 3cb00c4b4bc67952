"""An efficient image for GPU work: a CUDA base, git, and PyTorch's own builds, with the model cache on a Volume.

modal run app.py

Nothing here knows about Stoker: this is an ordinary Modal app, and `modal run` finds it the server.
"""

import modal

app = modal.App("example-images")
model_vol = modal.Volume.from_name("model-cache", create_if_missing=True)

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
)  # fmt: skip

with image.imports():
    import os
    import subprocess
    import sys

    import diffusers
    import torch
    import transformers


@app.function(image=image, volumes={"/models": model_vol}, gpu="H100")
def describe() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "diffusers": diffusers.__version__,
        "git": subprocess.run(["git", "--version"], check=True, capture_output=True, text=True).stdout.split()[-1],
        "model cache": os.environ["HF_HUB_CACHE"],
        "CUDA": str(torch.version.cuda if torch.cuda.is_available() else None),
    }


@app.local_entrypoint()
def main():
    for name, found in describe.remote().items():
        print(f"{name:>12}: {found}")
