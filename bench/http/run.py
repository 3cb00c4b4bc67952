"""Measures HTTP: `python bench/http/run.py [--seconds 8] [--rounds 3] [--runtime process|runsc] [--only NAME,...] [--steady 600]`.

An echo endpoint (a POST of {"s":"hello"}) as a fastapi_endpoint, as an @app.server, as the same @app.server's app without the gateway in
front, and on bare uvicorn, LitServe, BentoML and Ray Serve; one container, worker or replica each. wrk makes the load (`apt install wrk`)
and shares the machine with what it measures. Peers live in a virtual environment of their own that the first run makes.

--steady measures the fastapi_endpoint alone for so many seconds, and compares the end with the beginning.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys

import psutil
from load import Load, load, median
from rich.console import Console
from rich.table import Table
from targets import PEER_COMMANDS, NotRunning, peer, stoker

OURS = ("@app.server", "its app directly", "fastapi_endpoint")
_WINDOW = 10.0  # seconds, of a steady run

Results = dict[str, dict[int, Load]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of which the median counts")
    parser.add_argument("--connections", default="1,32,256")
    parser.add_argument("--runtime", choices=("process", "runsc"), default="process")
    parser.add_argument("--only", default=",".join((*OURS, *PEER_COMMANDS)), help="what to measure, by name")
    parser.add_argument("--steady", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk makes the load and is not installed: apt install wrk")
    if options.steady:
        steady(options.runtime, options.steady, int(options.connections.split(",")[0]))
        return
    names = options.only.split(",")
    counts = [int(count) for count in options.connections.split(",")]
    before = os.getloadavg()[0]
    results: Results = {}
    if any(name in OURS for name in names):
        with stoker(options.runtime) as (urls, pid):
            ours = {name: url for name, url in urls.items() if name in names}
            results |= measure(ours, counts, options.rounds, options.seconds, psutil.Process(pid))
    for name in PEER_COMMANDS:
        if name not in names:
            continue
        try:
            with peer(name) as url:
                results |= measure({name: url}, counts, options.rounds, options.seconds)
        except NotRunning as why:
            print(f"{name} is left out: {why}.", file=sys.stderr)
    if options.json:
        print(json.dumps({n: {c: vars(one) for c, one in by.items()} for n, by in results.items()}))
    else:
        show(results, options.runtime, before)


def measure(
    urls: dict[str, str], counts: list[int], rounds: int, seconds: float, watched: psutil.Process | None = None
) -> Results:
    """The targets take turns, so that a busy moment of the machine meets them all."""
    for url in urls.values():
        load(url, 8, 2.0)
    results: Results = {name: {} for name in urls}
    for count in counts:
        runs: dict[str, list[Load]] = {name: [] for name in urls}
        for _ in range(rounds):
            for name, url in urls.items():
                runs[name].append(load(url, count, seconds, watched))
        for name in urls:
            results[name][count] = median(runs[name])
    return results


def steady(runtime: str, seconds: float, connections: int) -> None:
    with stoker(runtime) as (urls, pid):
        process, windows = psutil.Process(pid), []
        load(urls["fastapi_endpoint"], connections, _WINDOW)
        first_memory = process.memory_info().rss
        for _ in range(max(3, round(seconds / _WINDOW))):
            windows.append(load(urls["fastapi_endpoint"], connections, _WINDOW))
            one = windows[-1]
            print(f"{one.rate:8.0f} req/s  p50 {one.p50:7.2f}  p99 {one.p99:7.2f} ms  {one.errors} errors", flush=True)
        grown = process.memory_info().rss - first_memory
    third = len(windows) // 3
    begin, end = median(windows[:third]), median(windows[-third:])
    print(
        f"The last third beside the first: rate {end.rate / begin.rate:.2f}, p50 {end.p50 / begin.p50:.2f}, "
        f"p99 {end.p99 / begin.p99:.2f}; the server's memory grew by {grown / (1 << 20):.1f} MiB."
    )


def show(results: Results, runtime: str, load_before: float) -> None:
    counts = sorted({count for by in results.values() for count in by})
    table = Table(title=f"Echo over HTTP, {runtime} runtime (load average before: {load_before:.1f})")
    for column in ("connections", "what", "req/s", "p50 ms", "p99 ms", "errors", "gateway CPU µs/req"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for count in counts:
        for name, by in results.items():
            one = by[count]
            cpu = f"{one.cpu:.0f}" if one.cpu else ""
            table.add_row(
                str(count), name, f"{one.rate:.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}", str(one.errors or ""), cpu
            )
        table.add_section()
    console = Console()
    console.print(table)
    through, direct = results.get("@app.server"), results.get("its app directly")
    if through and direct:
        for count in counts:
            console.print(
                f"c={count}: the gateway adds {through[count].p50 - direct[count].p50:.2f} ms to the p50 of @app.server's app "
                f"and keeps {through[count].rate / direct[count].rate:.0%} of its throughput."
            )


if __name__ == "__main__":
    main()
