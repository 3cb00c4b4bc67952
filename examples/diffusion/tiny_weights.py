"""Random weights with the shape of the published ones, a few megabytes in all, laid out as a download would have left them.

modal run tiny_weights.py
modal run tiny_weights.py --model-id genmo/mochi-1-preview

They let the apps run anywhere in seconds; what they then draw is noise. `real_weights.py` fetches the real ones.
"""

import hashlib
import time
from pathlib import Path

import modal
from app import MODEL_ID, image, model_vol

app = modal.App("example-diffusion-tiny-weights")

REVISION = hashlib.sha1(b"tiny random weights").hexdigest()


@app.function(
    image=image.add_local_python_source("app", "tiny_models"), volumes={"/models": model_vol}, timeout=10 * 60
)
def make_weights(model_id: str) -> str:
    import tiny_models

    started = time.monotonic()
    repo = Path("/models") / f"models--{model_id.replace('/', '--')}"
    ref = repo / "refs" / "main"
    if ref.exists() and ref.read_text() != REVISION:
        raise FileExistsError(f"{repo} holds weights that this script did not make; it will not hide them.")
    snapshot = repo / "snapshots" / REVISION
    if not ref.exists():
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        tiny_models.save(model_id, snapshot)
        ref.parent.mkdir(exist_ok=True)
        ref.write_text(REVISION)
        model_vol.commit()
    size = sum(file.stat().st_size for file in snapshot.rglob("*") if file.is_file())
    return f"{model_id}, random weights: {size / 1e6:.1f} MB in {time.monotonic() - started:.2f} s"


@app.local_entrypoint()
def main(model_id: str = MODEL_ID):
    """MODEL_ID may be several, separated by commas."""
    for one in model_id.split(","):
        print(make_weights.remote(one))
