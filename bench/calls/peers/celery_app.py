"""The function as a Celery task. The broker's and result backend's URL comes from the environment."""

import os

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])


@app.task
def f(x: int) -> int:
    return x
