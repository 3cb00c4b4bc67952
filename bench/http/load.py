"""Load from wrk, and what it measured."""

from __future__ import annotations

import json
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

_SCRIPT = Path(__file__).with_name("echo.lua")


@dataclass(frozen=True)
class Load:
    """One run: rate in requests/s, latencies in ms; cpu: of the watched process in microseconds per request, 0 when none was."""

    rate: float
    p50: float
    p99: float
    errors: int
    cpu: float = 0.0


def load(url: str, connections: int, seconds: float, watched: psutil.Process | None = None) -> Load:
    """Posts to `url` over so many connections, each with one request at a time."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(_SCRIPT), url]
    before = _cpu(watched)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    cpu = (_cpu(watched) - before) / max(1, said["requests"]) * 1e6
    return Load(said["requests"] / said["seconds"], said["p50_us"] / 1e3, said["p99_us"] / 1e3, said["errors"], cpu)


def median(loads: list[Load]) -> Load:
    """Of every figure by itself; errors are added up."""
    return Load(
        statistics.median(one.rate for one in loads),
        statistics.median(one.p50 for one in loads),
        statistics.median(one.p99 for one in loads),
        sum(one.errors for one in loads),
        statistics.median(one.cpu for one in loads),
    )


def _cpu(process: psutil.Process | None) -> float:
    """Seconds of processor that a process has used."""
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)
