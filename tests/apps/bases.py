"""Functions without memory snapshots, which start from the base of their image. What they see is told by their answers."""

import os
import random
import sys
import time
from pathlib import Path

import modal

app = modal.App("bases")
volume = modal.Volume.from_name("bases-data", create_if_missing=True)


def what_is_seen() -> dict:
    return {
        "task": os.environ["MODAL_TASK_ID"],
        "program": Path("/proc/self/cmdline").read_text().split("\0")[1],
        "identity": os.environ["MODAL_IDENTITY_TOKEN"],
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(("MODAL_TASK", "MODAL_IDENTITY"))},
        "path": sys.path,
        "argv": sys.argv,
        "directory": os.getcwd(),
        "modules": sorted(set(sys.modules)),
        "main": sys.modules["__main__"].__spec__.name,
        "bytecode": sys.dont_write_bytecode,
        "zone": time.tzname[0],
        "random": random.random(),
    }


@app.function(scaledown_window=2)
def plain() -> dict:
    return what_is_seen()


@app.function(scaledown_window=2, secrets=[modal.Secret.from_dict({"WORD": "secret", "TZ": "Asia/Tokyo"})])
def with_secret() -> dict:
    return what_is_seen()


@app.function(scaledown_window=2, volumes={"/data": volume})
def with_volume(text: str) -> tuple[dict, str]:
    before = Path("/data/text").read_text() if Path("/data/text").exists() else ""
    Path("/data/text").write_text(text)
    volume.commit()
    return what_is_seen(), before


@app.function(scaledown_window=2, secrets=[modal.Secret.from_dict({"LD_LIBRARY_PATH": "/opt/lib"})])
def too_early() -> dict:
    return what_is_seen()


@app.function(scaledown_window=2)
def leaves(code: int) -> None:
    os._exit(code)
