"""A CUDA program in a sandbox of its own, saved and restored: what `stoker doctor --gpu` tries after everything was found in place.

The program needs nothing but the driver: it fills memory of the GPU, waits, and looks whether it is still there.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from stoker.aio.cancelling import within
from stoker.errors import FailedPrecondition
from stoker.runtime.base import BindMount, Container, ContainerSpec, Runtime

_LIMIT = 120.0  # seconds for each step
_PYTHON = os.path.realpath(sys.executable)
_PROGRAM = """
import ctypes, os, struct, sys, time
SIZE, WORD = 64 << 20, 0x5AFE2600
cuda = ctypes.CDLL("libcuda.so.1")
def do(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{name} answered CUDA error {code}")
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
name = ctypes.create_string_buffer(100)
do("cuInit", 0)
do("cuDeviceGet", ctypes.byref(device), 0)
do("cuDeviceGetName", name, 100, device)
do("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
do("cuCtxSetCurrent", context)
do("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(SIZE))
do("cuMemsetD32_v2", memory, WORD, ctypes.c_size_t(SIZE // 4))
try:
    restored = os.open("/proc/gvisor/checkpoint", os.O_RDONLY)
except OSError:
    restored = -1
print(name.value.decode(), flush=True)
while not os.path.exists("/trial/go"):
    time.sleep(0.01)
if restored >= 0:
    os.read(restored, 16)  # until GPU memory is back as well
back = ctypes.create_string_buffer(SIZE)
do("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(SIZE))
print("kept" if back.raw == struct.pack("<I", WORD) * (SIZE // 4) else "changed", flush=True)
"""


class GpuTrial:
    """`runtime` is open. `devices`: indices of GPUs. `directory` is scratch space and must exist. `env`: so that libcuda.so.1 is found."""

    def __init__(self, runtime: Runtime, devices: Sequence[int], directory: Path, env: Mapping[str, str]) -> None:
        self._runtime = runtime
        self._devices = tuple(devices)
        self._directory = directory
        self._env = env
        self._layer, self._mounts = _host_root(directory)
        self._container: Container | None = None

    async def run(self) -> str:
        """Runs the program until it waits; returns the GPU's name as CUDA tells it. Raises FailedPrecondition."""
        output = _Lines()
        self._container = await self._runtime.start(self._spec("ta-gpu-trial-1"), output.feed)
        return await _first_line(output, self._container)

    async def save_and_restore(self) -> tuple[float, float]:
        """Saves the waiting program, ends it, and restores it; seconds of both. Raises FailedPrecondition unless GPU memory was kept."""
        assert self._container is not None
        snapshot, start = self._directory / "snapshot", time.monotonic()
        await _in_time(self._container.checkpoint(snapshot), "Saving it")
        saved = time.monotonic()
        await self.end()
        output = _Lines()
        spec = self._spec("ta-gpu-trial-2")
        (self._directory / spec.id / "go").touch()
        began = time.monotonic()
        self._container = await self._runtime.restore(spec, snapshot, output.feed)
        line = await _first_line(output, self._container)
        if line != "kept":
            raise FailedPrecondition(f"The restored program found its GPU memory {line}.")
        return saved - start, time.monotonic() - began

    async def end(self) -> None:
        if self._container is not None:
            await self._container.kill()
            await self._container.wait()

    def _spec(self, id: str) -> ContainerSpec:
        own = self._directory / id
        own.mkdir()
        return ContainerSpec(
            id=id,
            layers=(self._layer,),
            argv=(_PYTHON, "-c", _PROGRAM),
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **self._env},
            workdir="/",
            mounts=(*self._mounts, BindMount(own, "/trial")),
            network=False,
            gpu_devices=self._devices,
            gpu_snapshot=bool(self._devices) and not self._runtime.gpu_snapshot_obstacle(),
        )


class _Lines:
    """What the program says."""

    def __init__(self) -> None:
        self.text = {1: "", 2: ""}
        self.came = asyncio.Event()

    def feed(self, descriptor: int, chunk: bytes) -> None:
        self.text[descriptor] += chunk.decode(errors="replace")
        if "\n" in self.text[1]:
            self.came.set()


async def _first_line(output: _Lines, container: Container) -> str:
    said = asyncio.ensure_future(output.came.wait())
    ended = asyncio.ensure_future(container.wait())
    try:
        await asyncio.wait([said, ended], timeout=_LIMIT, return_when=asyncio.FIRST_COMPLETED)
        if output.came.is_set():
            return output.text[1].splitlines()[0]
        if ended.done():
            end = ended.result()
            words = output.text[2].strip().splitlines()
            raise FailedPrecondition(words[-1] if words else end.detail or f"It ended with exit code {end.code}.")
        raise FailedPrecondition(f"It said nothing for {_LIMIT:.0f} s.")
    finally:
        said.cancel()
        ended.cancel()


async def _in_time(work: Coroutine[Any, Any, None], what: str) -> None:
    try:
        await within(work, _LIMIT)
    except TimeoutError:
        raise FailedPrecondition(f"{what} took longer than {_LIMIT:.0f} s.") from None


def _host_root(directory: Path) -> tuple[Path, tuple[BindMount, ...]]:
    """A layer with the skeleton of a root file system, and mounts that fill it with the host's programs and this Python."""
    layer = directory / "skeleton"
    for name in ("etc", "root", "tmp", "usr"):
        (layer / name).mkdir(parents=True)
    mounts = [BindMount(Path("/usr"), "/usr")]
    for name in ("bin", "sbin", "lib", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            (layer / name).symlink_to(os.readlink(path))
        elif path.is_dir():
            mounts.append(BindMount(path, str(path)))
    if not sys.base_prefix.startswith("/usr/"):
        mounts.append(BindMount(Path(sys.base_prefix), sys.base_prefix))
    return layer, tuple(mounts)
