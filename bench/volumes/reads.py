"""The same reads inside and outside of a container. Each gives bytes per second, the best of some rounds."""

from __future__ import annotations

import mmap
import os
import random
import time

ROUNDS = 3
_RANDOM_READS = 5_000
_PAGE = 4096
_LARGE = 1 << 20


def read(what: str, path: str) -> float:
    """what: "sequential", "random 4 KiB", "random 1 MiB", "mmap", or "small files" (path is then a directory)."""
    work = {
        "sequential": _sequential,
        "random 4 KiB": lambda path: _random(path, _PAGE, _RANDOM_READS),
        "random 1 MiB": lambda path: _random(path, _LARGE, 200),
        "mmap": _mapped,
        "small files": _small,
    }[what]
    best = 0.0
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        amount = work(path)
        best = max(best, amount / (time.perf_counter() - begin))
    return best


def _sequential(path: str) -> int:
    amount, buffer = 0, bytearray(_LARGE)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            amount += count
    return amount


def _random(path: str, length: int, count: int) -> int:
    places = random.Random(1)
    descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    amount = sum(len(os.pread(descriptor, length, places.randrange(size - length))) for _ in range(count))
    os.close(descriptor)
    return amount


def _mapped(path: str) -> int:
    """What safetensors does: every page of a mapping is touched."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for start in range(0, len(view), _LARGE):
            view[start : start + _LARGE]
        return len(view)


def _small(path: str) -> int:
    amount = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                amount += len(file.read())
    return amount


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps({what: read(what, path) for what, path in json.loads(sys.argv[1]).items()}))
