"""A deployed app with memory snapshots, as its users write it. What it does is told by its answers."""

import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import modal

app = modal.App("snapshots")
volume = modal.Volume.from_name("snapshot-data", create_if_missing=True)
secret = modal.Secret.from_name("snapshot-secret", required_keys=["WORD"])
VERSION = os.environ.get("APP_VERSION", "1")

SERVER = """
import socketserver, sqlite3, sys
db = sqlite3.connect("/root/shop.db", check_same_thread=False)
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            db.execute("insert into lines values (?)", (line.decode().strip(),)); db.commit()
            count, = db.execute("select count(*) from lines").fetchone()
            self.wfile.write(f"{count}\\n".encode()); print("served", line, flush=True)
server = socketserver.ThreadingTCPServer(("127.0.0.1", 8188), Handler)
print("up", flush=True)
server.serve_forever()
"""


@app.cls(
    enable_memory_snapshot=True,
    volumes={"/data": volume},
    secrets=[secret, modal.Secret.from_dict({"VERSION": VERSION})],
    scaledown_window=2,
    max_containers=4,
)
class Model:
    name: str = modal.parameter(default="anyone")

    @modal.enter(snap=True)
    def load(self):
        marks = Path("/data/loads")
        marks.mkdir(exist_ok=True)
        (marks / f"{time.time_ns()}").touch()
        self.loaded = os.urandom(8).hex()
        self.heap = bytes(range(256)) * 4096
        random.seed(7)
        Path("/root/weights.bin").write_bytes(self.heap)
        self.open_file = open("/root/weights.bin", "rb")  # noqa: SIM115
        self.open_file.seek(100)
        db = sqlite3.connect("/root/shop.db")
        db.execute("create table lines (text)")
        db.commit()
        self.server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
        assert self.server.stdout.readline() == "up\n"

    @modal.enter()
    def connect(self):
        self.entered = getattr(self, "entered", 0) + 1
        self.task = os.environ["MODAL_TASK_ID"]

    @modal.method()
    def look(self, wait: float = 0.0) -> dict:
        time.sleep(wait)
        import socket

        with socket.create_connection(("127.0.0.1", 8188)) as connection:
            connection.sendall(b"hello\n")
            served = int(connection.makefile().readline())
        return {
            "loaded": self.loaded,
            "loads": len(list(Path("/data/loads").iterdir())),
            "entered": self.entered,
            "task": self.task,
            "env_task": os.environ["MODAL_TASK_ID"],
            "word": os.environ.get("WORD"),
            "extra": os.environ.get("extra_word"),  # noqa: SIM112
            "removed": os.environ.get("REMOVED"),
            "version": os.environ["VERSION"],
            "name": self.name,
            "heap": self.heap == bytes(range(256)) * 4096,
            "file": self.open_file.read(4).hex(),
            "served": served,
            "pipe": self.server.stdout.readline().strip(),
            "random": random.random(),
            "note": Path("/data/note").read_text() if Path("/data/note").exists() else "",
            "time": time.time(),
        }


@app.function(enable_memory_snapshot=True, scaledown_window=2)
def plain(x: int) -> int:
    return x + 1


@app.function(
    gpu="H100",
    enable_memory_snapshot=True,
    experimental_options={"enable_gpu_snapshot": True},
    scaledown_window=2,
)
def on_gpu() -> str:
    return os.environ["MODAL_TASK_ID"]
