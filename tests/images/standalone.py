"""A standalone Python as python-build-standalone packs it, made of the Python that runs the tests, and the list that makes uv offer it."""

from __future__ import annotations

import io
import json
import platform
import sys
import tarfile
from pathlib import Path

SERIES = f"{sys.version_info.major}.{sys.version_info.minor}"
_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "tkinter", "ensurepip"}


def offer(directory: Path, *versions: str, url: str = "") -> str:
    """Packs it as `directory`/python.tar.gz under each of these versions (`3.11.17`), said to be at `url`; the URL of the list, as
    UV_PYTHON_DOWNLOADS_JSON_URL wants it."""
    archive = directory / "python.tar.gz"
    _pack(archive)
    machine = platform.machine()
    entries = {}
    for version in versions:
        major, minor, patch = (int(part) for part in version.split("."))
        entries[f"cpython-{version}-linux-{machine}-gnu"] = {
            "name": "cpython",
            "arch": {"family": machine, "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": major,
            "minor": minor,
            "patch": patch,
            "prerelease": "",
            "url": url or archive.as_uri(),
            "sha256": None,
            "variant": None,
            "build": "20261021",
        }
    listing = directory / "downloads.json"
    listing.write_text(json.dumps(entries))
    return listing.as_uri()


def _pack(archive: Path) -> None:
    prefix, name = Path(sys.base_prefix), f"python{SERIES}"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(prefix / "lib" / name, f"python/lib/{name}", filter=_kept)
        for library in (prefix / "lib").glob("libpython3.*.so.1.0"):
            tar.add(library, f"python/lib/{library.name}")
        # Where it looks for its library: beside itself, wherever that is.
        program = (prefix / "bin" / name).read_bytes()
        own = f"{prefix}/lib\0".encode()
        _add(tar, f"python/bin/{name}", program.replace(own, b"$ORIGIN/../lib\0".ljust(len(own), b"\0")), 0o755)
        for path in (prefix / "lib" / name).glob("_sysconfigdata*.py"):
            text = path.read_bytes().replace(str(prefix).encode(), b"/install")
            _add(tar, f"python/lib/{name}/{path.name}", text, 0o644)
        link = tarfile.TarInfo("python/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, name
        tar.addfile(link)


def _kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(info.name).parts
    return (
        None
        if _LEFT_OUT & set(parts) or any(part.startswith(("config-", "_sysconfigdata")) for part in parts)
        else info
    )


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))
