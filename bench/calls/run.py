"""Measures calls: `python bench/calls/run.py [--runtime process|runsc] [--only stoker,ray,celery] [--rows map,remote,...] [--rounds 3]`.

Starts a server of its own on a free port, deploys `app.py`, and prints rates, latencies and CPU per call, beside Ray core and Celery with
Redis in the same run, in turns. Client, server and containers (or workers) share the machine, so the rates are those of all three together;
the server's CPU per call is its own. Stoker stores every input and output on disk; Ray, and Celery as it is set up here, keep them in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys

from rich.console import Console
from rich.table import Table
from systems import Failed, Results, celery, floor, ray, stoker

SYSTEMS = ("stoker", "ray", "celery")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=("process", "runsc"), default="process")
    parser.add_argument("--inputs", type=int, default=10_000, help="of a map")
    parser.add_argument("--rounds", type=int, default=1, help="of which the median counts")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="which systems, by name")
    parser.add_argument("--rows", default="", help="Stoker's rows: those that contain one of these words (all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(SYSTEMS):
        parser.error(f"--only knows {', '.join(SYSTEMS)}, not {', '.join(sorted(unknown))}")
    load = os.getloadavg()[0]
    rounds: dict[str, list[Results]] = {name: [] for name in names}
    floors = []
    for _ in range(options.rounds):
        for name in names:
            try:
                rounds[name].append(measure(name, options.runtime, options.inputs, options.rows))
            except Failed as failure:
                print(f"Left out of this round: {name}. {failure}", file=sys.stderr)
        if "stoker" in names:
            floors.append(floor())
    results = {name: median(found) for name, found in rounds.items() if found}
    if floors:
        results["floor"] = median([{"floor": found} for found in floors])
    print(json.dumps(results)) if options.json else show(results, options.runtime, load)


def measure(name: str, runtime: str, inputs: int, rows: str) -> Results:
    if name == "stoker":
        return stoker(runtime, inputs, rows)
    return ray(inputs) if name == "ray" else celery(inputs)


def median(rounds: list[Results]) -> Results:
    return {
        row: {key: statistics.median(found[row][key] for found in rounds) for key in values}
        for row, values in rounds[0].items()
    }


def show(results: dict[str, Results], runtime: str, load: float) -> None:
    console = Console()
    if "stoker" in results:
        console.print(own_table(results["stoker"], runtime))
        console.print(words(results["stoker"], results["floor"]["floor"]))
    if set(results) & {"ray", "celery"}:
        console.print(ratios(results, runtime))
    console.print(f"Load of the machine before the run: {load:.1f} on {os.cpu_count()} processors.")


def own_table(rows: Results, runtime: str) -> Table:
    table = Table(title=f"Calls, {runtime} runtime")
    for column in ("what", "calls/s", "p50 ms", "p99 ms", "server CPU ms/call", "client CPU ms/call"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, row in rows.items():
        if "per_second" in row:
            keys = ("per_second", "p50_ms", "p99_ms", "server_cpu_ms", "client_cpu_ms")
            table.add_row(name, *(f"{row[key]:.2f}" if key in row else "" for key in keys))
    return table


def words(rows: Results, floor: dict[str, float]) -> str:
    firsts = ", ".join(
        f"{n.removeprefix('first call of ')} {r['seconds']:.2f} s" for n, r in rows.items() if "seconds" in r
    )
    client, container = floor["client_ms"], floor["container_ms"]
    lines = [
        f"First call after deployment (boot to first output): {firsts}.",
        f"The client alone needs {client:.2f} ms a call and a container (a process) {container:.2f} ms, against a server that does nothing.",
    ]
    alone = 1e3 / floor["mapped_ms"]
    lines.append(f"The client alone maps {alone:.0f} inputs a second, against the same.")
    if ".map, batched 50" in rows:
        lines.append(f"A batched map reaches {rows['.map, batched 50']['per_second'] / alone:.2f} of that.")
    if "sequential .remote" in rows:
        ratio = rows["sequential .remote"]["p50_ms"] / (client + container)
        lines.append(f"A sequential .remote takes {ratio:.2f} times their sum.")
    return "\n".join(lines)


def ratios(results: dict[str, Results], runtime: str) -> Table:
    """Rates beside each other; above 1 Stoker is faster."""
    peers = [name for name in ("ray", "celery") if name in results]
    ours = results.get("stoker", {})
    table = Table(title=f"Calls per second in the same run (Stoker: {runtime} runtime)")
    table.add_column("what")
    for name in (*(["stoker"] if ours else []), *peers, *(f"stoker / {peer}" for peer in peers if ours)):
        table.add_column(name, justify="right")
    for row in results[peers[0]]:
        rates = [results[peer][row]["per_second"] for peer in peers]
        own = ours.get(row, {}).get("per_second")
        cells = [f"{rate:.0f}" for rate in rates]
        if ours:
            cells = [f"{own:.0f}" if own else "", *cells, *(f"{own / rate:.2f}" if own else "" for rate in rates)]
        table.add_row(row, *cells)
    return table


if __name__ == "__main__":
    main()
