"""A server in the shape of ComfyUI (the stand-in of the tests) in a process of its own, with an HTTP socket, a SQLite file and pipes.

`start()` launches it and waits until it says that it listens; `run()` has it draw a picture and answers the picture's bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

STAND_IN = Path(os.environ.get("COMFY_STAND_IN", "/opt/comfy"))
WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 4660}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "bench"}},
}


def start() -> str:
    """Returns the server's URL."""
    workspace = Path(tempfile.mkdtemp(prefix="comfy-")) / "workspace"
    shutil.copytree(STAND_IN, workspace)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, str(workspace / "main.py"), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("To see the GUI go to: "):
            return line.removeprefix("To see the GUI go to: ").strip()
    raise RuntimeError("the server ended before it listened")


def run(url: str) -> bytes:
    prompt = json.loads(_ask(url, "/prompt", json.dumps({"prompt": WORKFLOW}).encode()))["prompt_id"]
    while prompt not in (history := json.loads(_ask(url, f"/history/{prompt}"))):
        time.sleep(0.002)  # it answers at once; what its clients do instead is a web socket
    (image,) = history[prompt]["outputs"]["2"]["images"]
    return _ask(url, f"/view?filename={image['filename']}&type={image['type']}&subfolder={image['subfolder']}")


def _ask(url: str, path: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return bytes(response.read())
