"""Packs a root file system's tar archive as an OCI image layout, which buildah reads without copying twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def pack(tar: Path, layout: Path, *, architecture: str, env: Mapping[str, str], cmd: Sequence[str]) -> None:
    """Makes the directory `layout` with one image of one uncompressed layer; `tar` is moved into it."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    digest, size = _digest(tar), tar.stat().st_size
    shutil.move(tar, blobs / digest)
    config = _blob(
        blobs,
        {
            "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": [f"{name}={value}" for name, value in env.items()], "Cmd": list(cmd)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        },
    )
    manifest = _blob(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": f"sha256:{digest}",
                    "size": size,
                }
            ],
        },
    )
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", **manifest}],
    }
    (layout / "index.json").write_text(json.dumps(index))


def _blob(blobs: Path, document: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()
