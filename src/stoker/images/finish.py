"""The last step of a build: bytecode for what was installed, and what there is to know of the image's Python. Asked of that Python itself, apart
from the host like any other step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stoker.images.layer import NewLayer
from stoker.images.plan import DEFAULT_PATH, INSIDE
from stoker.nodes.builds import ImageConfig

FILE = "finish.py"
SOURCE = r"""
import compileall, json, os, platform, site, sys

def added(since):
    roots = {p for p in [*site.getsitepackages(), *sys.path] if os.path.basename(p) in ("site-packages", "dist-packages")}
    for root in roots:
        for directory, _, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                if name.endswith(".py") and os.lstat(path).st_ctime >= since and not compiled(path):
                    yield path

def compiled(path):
    from importlib.util import cache_from_source
    try:
        return os.path.getsize(cache_from_source(path)) > 0
    except (OSError, NotImplementedError):
        return False

def compile_one(path):
    return compileall.compile_file(path, quiet=2)

def compile_all(paths):
    if len(paths) < 100:
        for path in paths:
            compile_one(path)
    else:
        import concurrent.futures
        with concurrent.futures.ProcessPoolExecutor() as pool:
            list(pool.map(compile_one, paths, chunksize=20))

def facts():
    try:
        from importlib import metadata
        packages = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    except Exception:
        packages = {}
    libc, version = platform.libc_ver()
    if libc != "glibc":
        musl = [n for n in os.listdir("/lib") if n.startswith("ld-musl")] if os.path.isdir("/lib") else []
        libc, version = ("musl", "") if musl else ("glibc", "")
    return {"python": platform.python_version(), "libc": libc, "libc_version": version, "packages": packages}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        try:
            compile_all(list(added(float(sys.argv[1]))))
        except Exception:
            pass
    print("\n" + json.dumps(facts()))
"""
"""With an argument it compiles what came into site-packages since then (seconds since the epoch); up-to-date files are left alone."""
_LARGEST = 1 << 20  # characters of an answer


@dataclass(frozen=True)
class PythonInside:
    """`version` is empty when the image has no `python`."""

    version: str = ""
    libc: str = "glibc"
    libc_version: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)

    def added_to(self, config: ImageConfig) -> ImageConfig:
        """`config` of an image with this Python."""
        return replace(
            config,
            python_version=self.version,
            libc=self.libc,
            libc_version=self.libc_version,
            python_packages=dict(self.packages),
        )


async def finish(layer: NewLayer, env: Mapping[str, str], *, compile_since: float | None) -> PythonInside:
    """Finishes a layer whose image has the variables `env`; whatever keeps its Python from answering means that there is none.

    compile_since: when the build began (seconds since the epoch); None: nothing is compiled."""
    since = () if compile_since is None else (f"{compile_since:.0f}",)
    # -E -s: the user's PYTHON* settings and home do not change what is installed.
    argv = ("python", "-E", "-s", f"{INSIDE}/{FILE}", *since)
    answer = _Answer()
    code = await layer.run(argv, {"PATH": DEFAULT_PATH, **env}, answer)
    return answer.read() if code == 0 else PythonInside()


class _Answer:
    """Takes what a program says and finds the answer in it; a long line comes in pieces, and others may come before and after it."""

    def __init__(self) -> None:
        self._text = ""

    def __call__(self, line: str) -> None:
        if line.startswith('{"python": '):
            self._text = line
        elif self._text and len(self._text) < _LARGEST:
            self._text += line

    def read(self) -> PythonInside:
        try:
            found, _ = json.JSONDecoder().raw_decode(self._text)
            packages = {str(name): str(version) for name, version in found["packages"].items()}
            return PythonInside(str(found["python"]), str(found["libc"]), str(found["libc_version"]), packages)
        except (ValueError, KeyError, TypeError, AttributeError):
            return PythonInside()
