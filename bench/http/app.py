"""The echo endpoint, once as a function and once as a server of its own."""

import subprocess
import sys

import modal

app = modal.App("bench-http")
image = modal.Image.debian_slim(python_version="3.11").pip_install("fastapi[standard]", "uvicorn[standard]")
PORT = 8391

SERVER = """
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

class Said(BaseModel):
    s: str

web = FastAPI()

@web.post("/")
async def echo(said: Said):
    return {"s": said.s}

uvicorn.run(web, host="0.0.0.0", port=%d, log_level="warning", access_log=False)
"""

with image.imports():
    from pydantic import BaseModel

    class Said(BaseModel):
        s: str


@app.function(image=image, min_containers=1, max_containers=1, scaledown_window=1200)
@modal.concurrent(max_inputs=300)
@modal.fastapi_endpoint(method="POST")
async def echo(said: "Said"):
    return {"s": said.s}


@app.server(image=image, port=PORT, unauthenticated=True, min_containers=1, max_containers=1, scaledown_window=1200)
class Raw:
    @modal.enter()
    def start(self):
        self.process = subprocess.Popen([sys.executable, "-c", SERVER % PORT])

    @modal.exit()
    def stop(self):
        self.process.terminate()
