"""Ray Serve with a FastAPI ingress, one replica. Argument: the port."""

import logging
import signal
import sys

import ray
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve


class Said(BaseModel):
    s: str


web = FastAPI()


@serve.deployment(num_replicas=1, max_ongoing_requests=300)
@serve.ingress(web)
class Echo:
    @web.post("/")
    async def echo(self, said: Said):
        return {"s": said.s}


ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False, num_cpus=2)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Echo.bind())
signal.pause()
