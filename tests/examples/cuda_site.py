"""What an air-gapped site keeps for the image of the mission: a registry with the CUDA base, and an index with PyTorch's wheels.

Both hold stand-ins of a few kilobytes over Debian's base: the base has the entrypoint that prints a banner and, like the real one, no Python;
the wheels have a version and nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stoker.images import debian
from stoker.images.cachedir import default_cache
from tests.conftest import free_port
from tests.images.registry import serving

BASE = "nvidia/cuda:12.8.1-devel-ubuntu22.04"
BANNER = "== CUDA =="
ENTRYPOINT = f"#!/bin/sh\necho '{'=' * 10}'; echo '{BANNER}'; echo '{'=' * 10}'\nexec \"$@\"\n"
WHEELS = {"torch": "2.7.1+cu128", "transformers": "4.53.99", "diffusers": "99.0"}


def base_layout(directory: Path) -> Path:
    """An OCI layout of Debian without Python, plus the entrypoint."""
    base = debian.debian_base("debian:bookworm-slim")
    assert base is not None
    plain = asyncio.run(debian.bootstrap(base, default_cache() / "bases", lambda line: None))
    layout = directory / "cuda"
    shutil.copytree(plain, layout, copy_function=os.link if _same_disk(plain, directory) else shutil.copy)
    manifest, config = _image(layout)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("opt/nvidia/nvidia_entrypoint.sh")
        info.mode, info.size = 0o755, len(ENTRYPOINT)
        tar.addfile(info, io.BytesIO(ENTRYPOINT.encode()))
    layer = _blob(layout, data.getvalue())
    manifest["layers"].append({"mediaType": "application/vnd.oci.image.layer.v1.tar", **layer})
    config["rootfs"]["diff_ids"].append(layer["digest"])
    config["config"]["Entrypoint"] = ["/opt/nvidia/nvidia_entrypoint.sh"]
    manifest["config"] |= _blob(layout, json.dumps(config).encode())
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0] |= _blob(layout, json.dumps(manifest).encode())
    (layout / "index.json").unlink()
    (layout / "index.json").write_text(json.dumps(index))
    return layout


@contextmanager
def registry(layout: Path, directory: Path) -> Iterator[str]:
    """Its address. Debian's docker-registry where it is installed, with the base pushed; a few lines of Python elsewhere."""
    if not shutil.which("docker-registry"):
        with serving(layout) as (address, _):
            yield address
        return
    config, port = directory / "registry.json", free_port()
    storage = {"filesystem": {"rootdirectory": str(directory / "registry")}}
    config.write_text(json.dumps({"version": "0.1", "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}}))
    log = (directory / "registry.log").open("w")
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/v2/")
        to = f"docker://127.0.0.1:{port}/{BASE}"
        push = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}", to]
        subprocess.run(push, check=True)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        log.close()


@contextmanager
def package_index(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """(address of a simple index with the wheels, paths asked for)."""
    asked: list[str] = []
    root = directory / "index"
    for name, version in WHEELS.items():
        _wheel(root / name, name, version)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _wheel(directory: Path, name: str, version: str) -> None:
    directory.mkdir(parents=True)
    cuda = "class cuda:\n    is_available = staticmethod(lambda: False)\nclass version:\n    cuda = '12.8'\n"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\n{cuda}")
        info = f"{name}-{version}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def _image(layout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(manifest, config)."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_path(layout, index["manifests"][0]["digest"]).read_text())
    return manifest, json.loads(_path(layout, manifest["config"]["digest"]).read_text())


def _blob(layout: Path, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    _path(layout, digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def _path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.partition(":")[2]


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _wait(url: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(url)
