"""Download a checkpoint into the cache Volume, once; ComfyUI finds it there from then on.

modal run fetch_model.py --repo Comfy-Org/stable-diffusion-v1-5-archive --file v1-5-pruned-emaonly-fp16.safetensors
"""

import modal

app = modal.App("example-comfyui-fetch-model")
vol = modal.Volume.from_name("example-comfyui-cache", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("huggingface_hub==2.4.0")


@app.function(image=image, volumes={"/cache": vol}, timeout=60 * 60)
def fetch(repo: str, file: str, folder: str) -> str:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(repo, file, local_dir=f"/cache/models/{folder}")
    vol.commit()
    return path


@app.local_entrypoint()
def main(
    repo: str = "Comfy-Org/stable-diffusion-v1-5-archive",
    file: str = "v1-5-pruned-emaonly-fp16.safetensors",
    folder: str = "checkpoints",
):
    print(fetch.remote(repo, file, folder))
