"""Which GPUs there are: found by NVML, or declared for development."""

from __future__ import annotations

import re
from typing import Any

import structlog

from stoker.engine.local import Gpus
from stoker.errors import InvalidArgument

_log = structlog.get_logger(__name__)

# Product names as NVML gives them contain these; the first match wins, so longer names come first.
_MODELS = (
    "RTX-PRO-6000",
    "A100-80GB",
    "A100-40GB",
    "GH200",
    "B300",
    "B200",
    "H200",
    "H100",
    "L40S",
    "A100",
    "A10",
    "L4",
    "T4",
)


def find_gpus() -> tuple[Gpus, ...]:
    """The GPUs of this machine by model, each by the number of its device; none without an NVIDIA driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:
        _log.debug("no GPUs found", reason=str(error))
        return ()
    devices: dict[str, list[int]] = {}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                name = pynvml.nvmlDeviceGetName(handle)
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
            except pynvml.NVMLError as error:  # the others may be well
                _log.warning("a GPU cannot be used", gpu=index, reason=str(error))
                continue
            devices.setdefault(model_of(str(name), int(memory)), []).append(_number(handle, index))
    finally:
        pynvml.nvmlShutdown()
    return tuple(Gpus(model, tuple(indices)) for model, indices in devices.items())


def gpu_answers(number: int) -> bool:
    """Whether the driver still reaches a GPU that was there at the start."""
    import pynvml

    reason = "the driver does not list it any more"
    try:
        pynvml.nvmlInit()
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                try:
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    if _number(handle, index) == number:
                        pynvml.nvmlDeviceGetMemoryInfo(handle)
                        return True
                except pynvml.NVMLError as error:  # perhaps another one
                    reason = str(error)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        reason = str(error)
    _log.warning("a GPU does not answer", gpu=number, reason=reason)
    return False


def _number(handle: Any, index: int) -> int:
    """The N of /dev/nvidiaN, which is not the position in the driver's list where only some of the machine's GPUs are visible."""
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetMinorNumber(handle))
    except pynvml.NVMLError:  # not every system tells
        return index


def model_of(name: str, memory_bytes: int) -> str:
    """The name Modal uses for a product: "NVIDIA H100 80GB HBM3" is "H100"; an A100 also says its memory."""
    dashed = re.sub(r"[ _]+", "-", name.upper())
    if "A100" in dashed:
        return "A100-80GB" if memory_bytes > 60 << 30 else "A100-40GB"
    return next((m for m in _MODELS if m in dashed), dashed.removeprefix("NVIDIA-"))


def declared_gpus(text: str) -> tuple[Gpus, ...]:
    """GPUs that are not there, from "H100:1,L40S:2". Raises InvalidArgument."""
    gpus: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"([A-Za-z0-9\-]+)(?::(\d+))?", part)
        if match is None or match[2] == "0":
            raise InvalidArgument(f"--fake-gpus: {part!r} is not MODEL:COUNT, such as H100:1.")
        gpus[match[1].upper()] = gpus.get(match[1].upper(), 0) + int(match[2] or 1)
    return tuple(Gpus(model, tuple(range(count)), declared=True) for model, count in gpus.items())
