"""The `uv` program: our own dependency, and other versions of it by request."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import uv

from stoker.aio.processes import Finished, capture, stream
from stoker.errors import ImageBuildFailed
from stoker.images import hostconfig


async def run_uv(
    *arguments: str,
    cache: Path,
    stdin: str = "",
    python_downloads: bool = False,
    line: Callable[[str], None] | None = None,
) -> Finished:
    """Runs our own uv with the host's package sources; downloads are kept in `cache`/uv.

    python_downloads: whether it may fetch interpreters. line: is called with each line as it comes, in place of keeping them."""
    sources = hostconfig.package_sources()
    env = {name: value for name, value in os.environ.items() if not name.startswith("VIRTUAL_ENV")}
    env |= {name: value for name, value in sources.environment.items() if name.startswith("UV_")}
    env |= {
        "UV_CACHE_DIR": str(cache / "uv"),
        "UV_LINK_MODE": "copy",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "manual" if python_downloads else "never",
    }
    # The host's caps are meant for the user's packages, not for the pinned ones of the client.
    env.pop("UV_CONSTRAINT", None)
    bundle = hostconfig.certificate_bundle()
    if bundle is not None:
        env.setdefault("SSL_CERT_FILE", str(bundle))
    argv = (uv.find_uv_bin(), *arguments)
    if line is not None:
        return Finished(await stream(argv, env=env, line=line), "", "")
    return await capture(argv, env=env, stdin=stdin)


async def uv_binary(version: str, cache: Path) -> Path:
    """The uv program of `version` (empty for ours), downloaded as a wheel when it is another one. Raises ImageBuildFailed."""
    if not version or version == metadata.version("uv"):
        return Path(uv.find_uv_bin())
    kept = cache / "tools" / f"uv-{version}"
    if not kept.exists():
        work = Path(tempfile.mkdtemp(prefix="uv-"))
        try:
            wanted = ("--no-deps", "--only-binary", ":all:", "--target", str(work), f"uv=={version}")
            result = await run_uv("pip", "install", *wanted, cache=cache)
            if result.code:
                raise ImageBuildFailed(
                    f"uv {version} cannot be installed; leave `uv_version` out to use {metadata.version('uv')}, or choose a "
                    f"version that exists:\n{result.errors.strip()}"
                )
            kept.parent.mkdir(parents=True, exist_ok=True)
            _move(work / "bin" / "uv", kept)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return kept


def _move(source: Path, target: Path) -> None:
    """Atomic also when `source` is on another file system."""
    handle, name = tempfile.mkstemp(dir=target.parent)
    os.close(handle)
    shutil.copy(source, name)
    os.chmod(name, 0o755)
    os.replace(name, target)
