"""Ray's side of the measurement: `python ray_calls.py WORKERS INPUTS`. Prints one JSON document."""

import asyncio
import json
import sys
import time

import ray
from timing import sequential, timed

WORKERS, MAPPED = int(sys.argv[1]), int(sys.argv[2])


@ray.remote
def f(x: int) -> int:
    return x


async def many(count: int) -> None:
    async def one(number: int) -> int:
        return await f.remote(number)

    assert await asyncio.gather(*(one(n) for n in range(count))) == list(range(count))


def mapped(count: int) -> None:
    assert ray.get([f.remote(n) for n in range(count)]) == list(range(count))


ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
mapped(200)  # the workers are up
time.sleep(1.0)
results = {"map": timed(MAPPED, lambda: mapped(MAPPED))}
if WORKERS == 1:
    results["sequential"] = sequential(500, lambda n: ray.get(f.remote(n)))
    results["concurrent"] = timed(500, lambda: asyncio.run(many(500)))
print(json.dumps(results))
