"""GPUs in sandboxes, where there is none: what runsc would be told, what happens without, and the program of `stoker doctor --gpu`.

Doubles stand for what only a GPU machine has: the driver's device nodes and library, and a runsc that knows them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from stoker.agent.containers import _environment
from stoker.doctor.gpu import nvidia_devices
from stoker.doctor.gpu_trial import GpuTrial
from stoker.errors import FailedPrecondition
from stoker.nodes.builds import ImageConfig
from stoker.nodes.messages import ContainerRequest
from stoker.runtime import gpu
from stoker.runtime.base import ContainerSpec
from stoker.runtime.runsc import RunscRuntime
from tests.conftest import STOKER
from tests.runtime.conftest import GATEWAY_PORT, Bench, Output, new_id

pytestmark = pytest.mark.anyio

# A runsc of 2026 that knows everything about GPUs, writes down what it is told, and runs nothing.
RUNSC = """#!/bin/sh
case "$*" in
  --version) echo "runsc version release-20260601.0"; exit;;
  "help checkpoint") printf '  -compression value\\n  -cuda-checkpoint-path string\\n  -cuda-checkpoint-sequential\\n'; exit;;
  "help restore") printf '  -background\\n'; exit;;
  flags) printf '  -restore-spec-validation value\\n  -cuda-checkpoint-path string\\n  -nvproxy\\n'; exit;;
esac
echo "$*" >> {log}
case "$*" in *" run "*|*" restore "*) exec sleep 60;; esac
"""
TOOL = "/__modal/.bin/cuda-checkpoint"
LIBCUDA = """
#include <stdlib.h>
#include <string.h>
typedef unsigned long long address;
int cuInit(unsigned flags) { return FAIL; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Imaginary H100", size); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = 0; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuMemAlloc_v2(address *memory, size_t size) { *memory = (address) malloc(size); return 0; }
int cuMemsetD32_v2(address memory, unsigned word, size_t count) { while (count--) ((unsigned *) memory)[count] = word; return 0; }
int cuMemcpyDtoH_v2(void *host, address memory, size_t size) { memcpy(host, (void *) memory, size); return 0; }
"""


@pytest.fixture
async def recorded(needs_root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runtime on the imaginary runsc and GPU, and the command lines that runsc got, as lists of words."""
    log = tmp_path / "commands"
    for name, text in (("runsc", RUNSC.format(log=log)), ("cuda-checkpoint", "")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "driver").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gpu, "devices", lambda indices: [{"path": f"/dev/nvidia{index}"} for index in indices])
    monkeypatch.setattr(gpu, "driver_layer", lambda directory: tmp_path / "driver")
    runtime = RunscRuntime(tmp_path / "state", runsc=tmp_path / "runsc", gateway_port=GATEWAY_PORT, pool_size=1)
    await runtime.open()
    yield runtime, lambda: [line.split() for line in log.read_text().splitlines()]
    await runtime.close()


def spec(tmp_path: Path, **changes: Any) -> ContainerSpec:
    layer = tmp_path / "layer"
    layer.mkdir(exist_ok=True)
    return ContainerSpec(id=new_id(), layers=(layer,), argv=("true",), env={}, workdir="/", **changes)


async def test_what_runsc_is_told_for_gpu_snapshots(recorded: Any, tmp_path: Path) -> None:
    runtime, commands = recorded
    assert runtime.gpu_snapshot_obstacle() == ""
    container = await runtime.start(spec(tmp_path, gpu_devices=(1,), gpu_snapshot=True), Output())
    directory = tmp_path / "state" / "containers" / container.id
    config = json.loads((directory / "config.json").read_text())
    assert config["linux"]["devices"] == [{"path": "/dev/nvidia1"}]
    tool = next(mount for mount in config["mounts"] if mount["destination"] == TOOL)
    assert tool["source"] == str(tmp_path / "cuda-checkpoint") and "ro" in tool["options"]
    await _written(commands, 1)
    await container.checkpoint(tmp_path / "snapshot")
    restored = await runtime.restore(
        spec(tmp_path, gpu_devices=(0,), gpu_snapshot=True), tmp_path / "snapshot", Output()
    )
    await _written(commands, 5)
    run, pause, save, resume, restore = commands()
    for line in (run, pause, save, resume, restore):
        assert line[:11].count("--nvproxy=true") == line[:12].count(f"--cuda-checkpoint-path={TOOL}") == 1
    tail = [save[index] for index in range(save.index("checkpoint"), len(save))]
    assert tail == [
        *("checkpoint", f"--image-path={tmp_path}/snapshot/image", "--leave-running", "--compression=none"),
        *(f"--cuda-checkpoint-path={TOOL}", "--cuda-checkpoint-sequential", container.id),
    ]
    assert (pause[-2:], resume[-2:]) == (["pause", container.id], ["resume", container.id])
    assert restore[restore.index("restore") :] == [
        *("restore", f"--image-path={tmp_path}/snapshot/image", "--background"),
        *(f"--bundle={tmp_path}/state/containers/{restored.id}", restored.id),
    ]


async def test_a_gpu_whose_memory_is_not_saved_needs_no_tool(recorded: Any, tmp_path: Path) -> None:
    runtime, commands = recorded
    container = await runtime.start(spec(tmp_path, gpu_devices=(0,)), Output())
    await _written(commands, 1)
    await container.checkpoint(tmp_path / "snapshot")
    assert "--nvproxy=true" in commands()[0] and "cuda" not in (tmp_path / "commands").read_text()
    config = json.loads((tmp_path / "state" / "containers" / container.id / "config.json").read_text())
    assert TOOL not in {mount["destination"] for mount in config["mounts"]}


async def test_without_a_gpu_nothing_is_said_of_it(recorded: Any, tmp_path: Path) -> None:
    runtime, commands = recorded
    await runtime.start(spec(tmp_path), Output())
    await _written(commands, 1)
    assert not [word for word in commands()[0] if "nvproxy" in word or "cuda" in word]


def test_a_gpu_that_is_not_there_is_named() -> None:
    if Path("/dev/nvidia7").exists():
        pytest.skip("this machine has that many GPUs")
    with pytest.raises(FailedPrecondition, match="/dev/nvidia7 does not exist"):
        gpu.devices((7,))


def test_containers_that_start_together_share_one_whole_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libcuda.so"
    for path in (tmp_path / "nvidia-container-cli", library, tmp_path / "version"):
        path.write_text("550.54")
        path.chmod(0o755)
    made: list[Path] = []
    second = threading.Thread(target=lambda: made.append(gpu.driver_layer(tmp_path / "gpu")))
    second_asks = threading.Event()

    def ask(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        if threading.current_thread() is second:
            second_asks.set()
        elif not second.ident:
            second.start()
            second_asks.wait(0.3)  # it does so only if nothing keeps it from making the same directory
        return subprocess.CompletedProcess(command, 0, f"{library}\n", "")

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gpu, "_VERSION", tmp_path / "version")
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=ask))
    layer = gpu.driver_layer(tmp_path / "gpu")
    second.join()
    assert made == [layer] and not second_asks.is_set()
    assert {path.parent.name for path in layer.rglob("libcuda.so")} == {"bin", "lib64"}


def test_containers_find_the_drivers_libraries_before_those_of_the_image() -> None:
    image = ImageConfig(env={"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"})
    request = ContainerRequest("ta-1", "im-1", image, "1.6.4", b"", "main", gpu_devices=(0,))
    env = _environment(request, "/t", isolates=True)
    assert env["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64:/usr/local/cuda/lib64"
    declared = ContainerRequest("ta-1", "im-1", image, "1.6.4", b"", "main")
    assert _environment(declared, "/t", isolates=True)["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the imaginary libcuda is compiled")
async def test_the_doctors_program_runs_and_comes_back_with_its_memory(sandboxes: Bench, tmp_path: Path) -> None:
    for fail, name in ((0, "good"), (100, "bad")):
        directory = tmp_path / name
        directory.mkdir()
        trial = GpuTrial(sandboxes.runtime, (), directory, {"LD_LIBRARY_PATH": "/opt"})
        (directory / "skeleton" / "opt").mkdir()
        library = directory / "skeleton" / "opt" / "libcuda.so.1"
        compiler = ["gcc", "-shared", "-fPIC", f"-DFAIL={fail}", "-x", "c", "-", "-o", str(library)]
        await anyio.run_process(compiler, input=LIBCUDA.encode())
        if fail:
            with pytest.raises(FailedPrecondition, match="cuInit answered CUDA error 100"):
                await trial.run()
        else:
            assert await trial.run() == "Imaginary H100"
            saved, restored = await trial.save_and_restore()
            assert saved > 0 and restored > 0
        await trial.end()


@pytest.mark.skipif(nvidia_devices() > 0, reason="this machine has a GPU")
def test_the_doctor_says_that_there_is_no_gpu() -> None:
    done = subprocess.run([*STOKER, "doctor", "--gpu"], capture_output=True, text=True)
    assert done.returncode == 1 and "no GPU found" in done.stdout and "--fake-gpus" in done.stdout


async def _written(commands: Any, count: int) -> None:
    """Waits until runsc was called so often; what it is told is written by a process of its own."""
    with anyio.fail_after(20):
        while True:
            try:
                if len(commands()) >= count:
                    return
            except FileNotFoundError:
                pass
            await anyio.sleep(0.02)
