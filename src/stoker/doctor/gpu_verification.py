"""`stoker doctor --gpu`: everything between an app and a GPU of this machine, looked at and tried in the order in which it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from stoker.config import Settings
from stoker.doctor.check import Check, Finding, State, failed, ok, warning
from stoker.doctor.examination import Result
from stoker.doctor.gpu import driver_version, nvidia_devices
from stoker.doctor.gpu_trial import GpuTrial
from stoker.engine.gpus import find_gpus
from stoker.errors import StokerError
from stoker.runtime import gpu
from stoker.runtime.runsc import RunscRuntime
from stoker.runtime.runsc_binary import find_runsc

OLDEST_DRIVER_FOR_SNAPSHOTS = 570


async def verify(settings: Settings) -> AsyncIterator[Result]:
    """Yields what was found, one thing after the other; ends after the first that failed, since the next ones build on it."""
    for check in (FOUND, DRIVER, NVML, DEVICES, FILES, RUNSC, RIGHTS):
        finding = check.look(settings)
        yield Result(check, finding)
        if finding.state is State.FAILED:
            return
    async for result in _try(settings):
        yield result


async def _try(settings: Settings) -> AsyncIterator[Result]:
    with tempfile.TemporaryDirectory(prefix="stoker-gpu-") as scratch:
        runtime = RunscRuntime(
            Path(scratch, "state"), runsc=find_runsc(settings.runsc_path), gateway_port=1, pool_size=1
        )
        try:
            await runtime.open()
            first = find_gpus()[0].devices[:1]
            trial = GpuTrial(runtime, first, Path(scratch), gpu.environment({}))
            try:
                yield Result(SANDBOX, ok(f"a CUDA program runs on: {await trial.run()}"))
            except StokerError as error:
                yield Result(SANDBOX, failed(str(error), "docs/gpu.md says what is needed; `dmesg` may say more."))
                return
            obstacle = runtime.gpu_snapshot_obstacle()
            if obstacle:
                yield Result(SNAPSHOT, warning(obstacle, "Until then snapshots hold main memory only."))
                return
            try:
                saved, restored = await trial.save_and_restore()
                yield Result(SNAPSHOT, ok(f"saved in {saved:.1f} s, restored in {restored:.1f} s, memory as it was"))
            except StokerError as error:
                yield Result(SNAPSHOT, failed(str(error), "docs/gpu.md says what is needed."))
            await trial.end()
        except StokerError as error:
            yield Result(SANDBOX, failed(str(error), "`stoker doctor` looks at what sandboxes need."))
        finally:
            await runtime.close()


def _found(settings: Settings) -> Finding:
    count = nvidia_devices()
    if count:
        return ok(f"{count} on the PCI bus")
    return failed(
        "no GPU found: no NVIDIA device is on this machine's PCI bus",
        "Run this on the GPU machine. Without one, `stoker up --fake-gpus H100:1` runs GPU apps on the CPU.",
    )


def _driver(settings: Settings) -> Finding:
    version = driver_version()
    if not version:
        return failed("no driver is loaded", "Install NVIDIA's driver, or load it with `modprobe nvidia`.")
    major = int(version.partition(".")[0])
    if major < OLDEST_DRIVER_FOR_SNAPSHOTS:
        return warning(version, f"Snapshots of GPU memory need {OLDEST_DRIVER_FOR_SNAPSHOTS} or newer.")
    return ok(version)


def _nvml(settings: Settings) -> Finding:
    found = find_gpus()
    if not found:
        return failed("NVML names no GPU", "`nvidia-smi` says why; the user needs access to /dev/nvidia*.")
    return ok(", ".join(f"{len(gpus.devices)} x {gpus.model}" for gpus in found))


def _devices(settings: Settings) -> Finding:
    try:
        entries = gpu.devices([index for gpus in find_gpus() for index in gpus.devices])
    except StokerError as error:
        return failed(str(error), "`nvidia-modprobe -u -c 0` makes them, too.")
    return ok(", ".join(entry["path"] for entry in entries))


def _files(settings: Settings) -> Finding:
    if shutil.which("nvidia-container-cli") is None:
        return failed(
            "nvidia-container-cli is not on this machine",
            "Install NVIDIA's package libnvidia-container-tools: it says which driver files a container needs.",
        )
    done = subprocess.run(["nvidia-container-cli", "list", "--libraries"], capture_output=True, text=True)
    if done.returncode or "libcuda.so" not in done.stdout:
        return failed(
            f"`nvidia-container-cli list --libraries` names no libcuda.so {done.stderr.strip()}".strip(),
            "Install the driver's compute libraries (libcuda1, or nvidia-driver-libs).",
        )
    return ok(f"{len(done.stdout.split())} libraries")


def _runsc(settings: Settings) -> Finding:
    try:
        runsc = find_runsc(settings.runsc_path)
    except StokerError as error:
        return failed(str(error), "`stoker doctor --fix` fetches one.")
    done = subprocess.run([runsc, "nvproxy", "list-supported-drivers"], capture_output=True, text=True)
    supported, version = done.stdout.split(), driver_version()
    if done.returncode:
        return failed(f"{runsc} cannot pass GPUs on", "Install a newer release of gVisor and set runsc_path.")
    if version not in supported:
        return failed(
            f"{runsc} does not know driver {version}; it knows {', '.join(supported[-5:])} and {len(supported)} in all",
            "Install a newer release of gVisor and set runsc_path, or one of these drivers.",
        )
    return ok(f"{runsc} knows driver {version}")


def _rights(settings: Settings) -> Finding:
    return ok("root") if os.geteuid() == 0 else failed("not root", "Run `sudo stoker doctor --gpu`.")


def _untried(settings: Settings) -> Finding:
    return failed("not tried", "`verify` tries it after everything else was found.")


FOUND = Check("gpu", "An app that asks for a GPU is given one of these.", _found)
DRIVER = Check("driver", "Talks to the GPU; containers use the host's.", _driver)
NVML = Check("nvml", "Tells the server which models there are.", _nvml)
DEVICES = Check("devices", "What a container opens to reach its GPU.", _devices)
FILES = Check("driver files", "Libraries of the driver that containers need.", _files)
RUNSC = Check("nvproxy", "gVisor checks every request to the driver, so it must know the driver's version.", _runsc)
RIGHTS = Check("rights", "Sandboxes need root.", _rights)
SANDBOX = Check("sandbox", "A CUDA program, tried in a real sandbox.", _untried)
SNAPSHOT = Check("snapshot", "The same program saved with 64 MiB of GPU memory, and restored.", _untried)
