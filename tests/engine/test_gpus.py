"""Finding GPUs, with a double of NVML where there is none."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from stoker.engine.gpus import find_gpus, gpu_answers


class NvmlError(Exception): ...


def driver(minors: list[int], ill: set[int] | None = None) -> SimpleNamespace:
    """One that lists devices with these minor numbers; a handle is the position in the list."""

    def handle(index: int) -> int:
        if minors[index] in (ill or ()):
            raise NvmlError("GPU is lost")
        return index

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(minors),
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetName=lambda handle: "NVIDIA H100 80GB HBM3",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 << 30),
        nvmlDeviceGetMinorNumber=lambda handle: minors[handle],
    )


def test_gpus_go_by_the_numbers_of_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is itself a container may have /dev/nvidia5 as its first GPU."""
    monkeypatch.setitem(sys.modules, "pynvml", driver([5, 2]))
    (found,) = find_gpus()
    assert (found.model, found.devices) == ("H100", (5, 2))
    monkeypatch.setitem(sys.modules, "pynvml", driver([2, 5], ill={2}))
    (found,) = find_gpus()
    assert found.devices == (5,), "a GPU that is lost does not keep the others from being used"
    assert (gpu_answers(5), gpu_answers(2), gpu_answers(0)) == (True, False, False)
