"""Heavy starts of different kinds. Each gives bytes that only a complete start can give."""


def nothing() -> bytes:
    return b"nothing"


def scipy() -> bytes:
    """Numeric libraries and 80 MB of data."""
    import numpy
    import pandas
    import scipy.linalg

    frame = pandas.DataFrame(numpy.arange(10_000_000).reshape(-1, 10))
    return repr((frame.sum().tolist(), round(scipy.linalg.det(numpy.eye(50)), 6))).encode()


def heap() -> bytes:
    """1 GiB of random data, which no snapshot can leave out."""
    import numpy

    global _heap
    _heap = numpy.random.default_rng(7).integers(0, 256, 1 << 30, dtype=numpy.uint8)
    return bytes(_heap[:: 1 << 12].tobytes())


def torch() -> bytes:
    import torch

    return repr(torch.arange(1000).sum().item()).encode()


def diffusers() -> bytes:
    import torch
    from diffusers import LTXPipeline

    return repr((LTXPipeline.__name__, torch.arange(1000).sum().item())).encode()


if __name__ == "__main__":
    # As a plain program of the host, for comparison.
    import hashlib
    import sys

    print(hashlib.sha256(globals()[sys.argv[1]]()).hexdigest())
