"""Celery's side of the measurement: `python celery_calls.py WORKERS INPUTS`, with a worker running. Prints one JSON document."""

import json
import sys

from celery_app import f
from timing import sequential, timed

WORKERS, MAPPED = int(sys.argv[1]), int(sys.argv[2])


def mapped(count: int) -> None:
    # A loop, which is faster than a group here.
    assert [result.get() for result in [f.delay(n) for n in range(count)]] == list(range(count))


mapped(200)  # the worker is up
results = {"map": timed(MAPPED, lambda: mapped(MAPPED))}
if WORKERS == 1:
    results["sequential"] = sequential(500, lambda n: f.delay(n).get())
    results["concurrent"] = timed(500, lambda: mapped(500))
print(json.dumps(results))
