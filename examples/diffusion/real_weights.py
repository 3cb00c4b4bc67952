"""Fetch the published weights of LTX-Video into the models Volume: a few tens of gigabytes, once.

modal run real_weights.py
modal run real_weights.py --model-id genmo/mochi-1-preview
"""

import modal
from app import MODEL_ID, image, model_vol

app = modal.App("example-diffusion-real-weights")
online_image = image.env({"HF_HUB_OFFLINE": "0"}).add_local_python_source("app")

with image.imports():
    from diffusers import DiffusionPipeline


@app.function(image=online_image, volumes={"/models": model_vol}, timeout=60 * 60)
def download_weights(model_id: str) -> str:
    # Only the files the pipeline loads; the repository also holds every older release of the model.
    snapshot = DiffusionPipeline.download(model_id)
    model_vol.commit()
    return str(snapshot)


@app.local_entrypoint()
def main(model_id: str = MODEL_ID):
    print(download_weights.remote(model_id))
