"""The client's side of the measurement, `measure.py SERVER_PID INPUTS [WORDS]`; `run.py` starts it against a server. Prints one JSON document."""

import asyncio
import json
import statistics
import sys
import time

import modal
import psutil

MAPPED = int(sys.argv[2])
WORDS = sys.argv[3].split(",") if len(sys.argv) > 3 and sys.argv[3] else [""]
server = psutil.Process(int(sys.argv[1]))
me = psutil.Process()
results: dict[str, dict[str, float]] = {}


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def function(name: str) -> modal.Function:
    return modal.Function.from_name("bench-calls", name)


def measured(name: str, count: int, work) -> None:
    """Runs `work`, which makes `count` calls, and notes rate and CPU per call of server and client. Left out when not asked for."""
    if not any(word in name for word in WORDS):
        return
    server_cpu, client_cpu, start = cpu(server), cpu(me), time.perf_counter()
    extra = work() or {}
    wall = time.perf_counter() - start
    results[name] = {
        "per_second": count / wall,
        "server_cpu_ms": (cpu(server) - server_cpu) / count * 1e3,
        "client_cpu_ms": (cpu(me) - client_cpu) / count * 1e3,
        **extra,
    }


def sequential(f: modal.Function, count: int) -> dict[str, float]:
    times = []
    for number in range(count):
        start = time.perf_counter()
        assert f.remote(number) == number
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    return {"p50_ms": statistics.median(times), "p99_ms": times[int(count * 0.99)], "min_ms": times[0]}


def mapped(f: modal.Function, count: int) -> None:
    assert list(f.map(range(count))) == list(range(count))


async def many(f: modal.Function, count: int) -> None:
    assert await asyncio.gather(*(f.remote.aio(n) for n in range(count))) == list(range(count))


for name in ("one", "two", "concurrent", "concurrent_async", "batched"):
    started = time.perf_counter()
    assert function(name).remote(1) == 1
    results[f"first call of {name}"] = {"seconds": time.perf_counter() - started}
one = function("one")
sequential(one, 50)
measured("sequential .remote", 500, lambda: sequential(one, 500))
measured(".map, 1 container", MAPPED // 2, lambda: mapped(one, MAPPED // 2))
measured(".map, 2 containers", MAPPED, lambda: mapped(function("two"), MAPPED))
measured(".map, concurrent 32", MAPPED // 2, lambda: mapped(function("concurrent"), MAPPED // 2))
measured(".map, concurrent 64, async", MAPPED // 2, lambda: mapped(function("concurrent_async"), MAPPED // 2))
measured(".map, batched 50", MAPPED, lambda: mapped(function("batched"), MAPPED))
aio = function("concurrent_async")
measured("500 concurrent .remote.aio", 500, lambda: asyncio.run(many(aio, 500)))
print(json.dumps(results))
