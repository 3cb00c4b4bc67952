"""An app of the tests: the CUDA base with its entrypoint left as it is."""

import modal

app = modal.App("noisy")
image = modal.Image.from_registry("nvidia/cuda:12.8.1-devel-ubuntu22.04")


@app.function(image=image)
def hello():
    print("hello")


@app.local_entrypoint()
def main():
    hello.remote()
