"""GPU memory in snapshots, by NVIDIA's `cuda-checkpoint` driven by gVisor. Written after their documentation; not run on hardware yet.

gVisor runs `cuda-checkpoint` inside the sandbox for every CUDA process: before it saves (GPU memory then lies in main memory and is saved
with it) and after it restored. The client waits for that on /proc/gvisor/checkpoint, which every runsc that can do it offers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from stoker.runtime.base import BindMount

TOOL = "/__modal/.bin/cuda-checkpoint"
"""Where the program lies inside."""

_FLAG = "-cuda-checkpoint-path"
_SEQUENTIAL = "-cuda-checkpoint-sequential"


def obstacle(save_help: str, tool: str | None = None) -> str:
    """Why GPU memory cannot be saved on this machine, a sentence; empty when it can. save_help: of `runsc help checkpoint`."""
    if _FLAG not in save_help:
        return "This release of runsc cannot save GPU memory; install a newer one from gVisor (docs/gpu.md)."
    if (tool or shutil.which("cuda-checkpoint")) is None:
        return "The program cuda-checkpoint, which saves GPU memory, is not on PATH (docs/gpu.md)."
    return ""


def global_flags(every_flag: str) -> tuple[str, ...]:
    """Flags before the runsc command: newer releases start the processes of a container as one job, so that several may share GPU memory."""
    return (f"-{_FLAG}={TOOL}",) if _FLAG in every_flag else ()


def save_flags(save_help: str) -> tuple[str, ...]:
    """Flags of `runsc checkpoint`. A restore needs none."""
    return (f"-{_FLAG}={TOOL}", *((f"-{_SEQUENTIAL}",) if _SEQUENTIAL in save_help else ()))


def tool_mount(tool: str | None = None) -> BindMount:
    """The host's program, for every container that is saved with or restored with GPU memory."""
    found = tool or shutil.which("cuda-checkpoint")
    assert found is not None, "asked for although there is an obstacle"
    return BindMount(Path(found).resolve(), TOOL)
