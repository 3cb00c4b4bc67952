"""Measures the HTTP/2 server beside grpclib and grpcio.aio: `python bench/rpc/run.py [--only stoker,grpclib,grpcio] [--rounds 3] [--json]`.

Each serves one method that does nothing, in a process of its own on the same event loop, to one client with one connection, in turns.
Prints calls a second one after the other and 100 at once, the server's CPU per call, and its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import uvloop
from load import Client
from rich.console import Console
from rich.table import Table

SERVERS = ("stoker", "grpclib", "grpcio")
_HERE = Path(__file__).parent
_GRPCIO = "grpcio==1.76.0"
_WARM_UP = 500


@dataclass(frozen=True)
class Found:
    """Of one server. Rates in calls/s, cpu in microseconds a call, memory in MiB."""

    sequential: float
    sequential_cpu: float
    concurrent: float
    concurrent_cpu: float
    memory_before: float
    memory_after: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SERVERS), help="which servers, by name")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--calls", type=int, default=5_000, help="of each row and round")
    parser.add_argument("--at-once", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(SERVERS):
        parser.error(f"--only knows {', '.join(SERVERS)}, not {', '.join(sorted(unknown))}")
    load = os.getloadavg()[0]
    rounds: dict[str, list[Found]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            with _serving(name) as (process, port):
                rounds[name].append(uvloop.run(_measure(process, port, options.calls, options.at_once)))
    results = {name: _median(found) for name, found in rounds.items()}
    if options.json:
        print(json.dumps({name: asdict(found) for name, found in results.items()}))
    else:
        _show(results, options.at_once, load)


async def _measure(process: psutil.Process, port: int, calls: int, at_once: int) -> Found:
    transport, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    await client.call(client.prepare(_WARM_UP), 10)
    before = process.memory_info().rss
    sequential = await _timed(process, client, calls, 1)
    concurrent = await _timed(process, client, calls, at_once)
    after = process.memory_info().rss
    transport.abort()
    return Found(*sequential, *concurrent, before / (1 << 20), after / (1 << 20))


async def _timed(process: psutil.Process, client: Client, calls: int, at_once: int) -> tuple[float, float]:
    """Calls a second, and microseconds of the server's CPU for each."""
    requests = client.prepare(calls)
    cpu, start = _cpu(process), time.perf_counter()
    await client.call(requests, at_once)
    seconds = time.perf_counter() - start
    return calls / seconds, (_cpu(process) - cpu) / calls * 1e6


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _median(rounds: list[Found]) -> Found:
    return Found(*(statistics.median(values) for values in zip(*(asdict(one).values() for one in rounds), strict=True)))


@contextlib.contextmanager
def _serving(name: str) -> Iterator[tuple[psutil.Process, int]]:
    env = os.environ | ({"PYTHONPATH": str(_grpcio())} if name == "grpcio" else {})
    server = subprocess.Popen(
        [sys.executable, str(_HERE / "serve.py"), name], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            sys.exit(f"The server of {name} did not start.")
        yield psutil.Process(server.pid), int(line)
    finally:
        server.kill()
        server.wait()


def _grpcio() -> Path:
    """Where grpcio lies, which nothing else here needs; the first run installs it."""
    place = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "stoker-bench-rpc" / _GRPCIO
    if not place.exists():
        print(f"Installing {_GRPCIO} in {place} ...", file=sys.stderr)
        uv = str(Path(sys.executable).parent / "uv")
        install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(place), _GRPCIO]
        subprocess.run(install, check=True)
    return place


def _show(results: dict[str, Found], at_once: int, load: float) -> None:
    table = Table(title="Unary calls over one connection")
    many = f"{at_once} at once"
    columns = ("server", "calls/s", "CPU µs/call", f"calls/s, {many}", f"CPU µs/call, {many}", "MiB", "MiB at the end")
    for column in columns:
        table.add_column(column, justify="left" if column == "server" else "right")
    for name, found in results.items():
        table.add_row(name, *(f"{value:.0f}" for value in asdict(found).values()))
    console = Console()
    console.print(table)
    if ours := results.get("stoker"):
        for name, found in results.items():
            if name != "stoker":
                console.print(
                    f"Stoker's makes {ours.sequential / found.sequential:.2f} times the calls of {name} one after the other and "
                    f"{ours.concurrent / found.concurrent:.2f} times with {many}, at {ours.concurrent_cpu / found.concurrent_cpu:.2f} of its CPU."
                )
    console.print(f"Load of the machine before the run: {load:.1f} on {os.cpu_count()} processors.")


if __name__ == "__main__":
    main()
