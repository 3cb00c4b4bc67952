"""Decode a video that another app made, frame by frame, in a container of its own.

modal run check_video.py --path /outputs/<name>.mp4

It shares nothing with the model's app but the Volume: what it reads has been committed.
"""

import json

import modal

app = modal.App("example-diffusion-check")
output_vol = modal.Volume.from_name("example-diffusion-outputs", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11").entrypoint([]).uv_pip_install("imageio[ffmpeg]==2.38.1")

with image.imports():
    import imageio.v3 as imageio


@app.function(image=image, volumes={"/outputs": output_vol})
def describe(path: str) -> dict[str, str | int | float]:
    """What the decoder finds; `contrast` is the standard deviation of all pixel values, 0 for a blank picture."""
    meta = imageio.immeta(path, plugin="FFMPEG")
    frames = imageio.imread(path, plugin="FFMPEG")  # (frames, height, width, 3), uint8
    return {
        "frames": frames.shape[0],
        "width": frames.shape[2],
        "height": frames.shape[1],
        "fps": float(meta["fps"]),
        "codec": meta["codec"],
        "contrast": round(float(frames.std()), 1),
    }


@app.local_entrypoint()
def main(path: str):
    print(json.dumps(describe.remote(path)))
