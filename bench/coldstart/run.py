"""Measures cold starts with and without memory snapshots: `python bench/coldstart/run.py [--heavy] [--json]`, as root.

Starts a server of its own on a free port and deploys `app.py`. Every number is the time from the client's call to its verified answer, with
no container running before. "saving" is the call whose container became the snapshot. The client, the server and the sandboxes share the
machine. --heavy adds torch and diffusers, whose image takes several minutes and gigabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
STOKER = [sys.executable, "-m", "stoker.cli.main"]
LIGHT, HEAVY = ("nothing", "scipy", "heap"), ("torch", "diffusers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heavy", action="store_true", help="also torch and diffusers")
    parser.add_argument("--only", default="", help="comma-separated names instead of all")
    parser.add_argument("--restores", type=int, default=30)
    parser.add_argument("--plain", type=int, default=5, help="starts without a snapshot, and on the host")
    parser.add_argument("--host-python", default=sys.executable, help="an interpreter that has the packages")
    parser.add_argument("--data", help="data directory to keep; a temporary one by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [*LIGHT, *(HEAVY if options.heavy else ())]
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as scratch:
        data = Path(options.data or scratch)
        subprocess.run(
            [*STOKER, "up", "--detach", "--data", data, "--port", "0"], check=True, stdout=subprocess.DEVNULL
        )
        try:
            results = measure(data, names, options)
        finally:
            subprocess.run([*STOKER, "down", "--data", data], check=True, stdout=subprocess.DEVNULL)
    print(json.dumps(results)) if options.json else show(results)


def measure(data: Path, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    info = json.loads((data / "server.json").read_text())
    token = json.loads((data / "token.json").read_text())
    env = os.environ | {
        "MODAL_SERVER_URL": info["url"],
        "MODAL_TOKEN_ID": token["id"],
        "MODAL_TOKEN_SECRET": token["secret"],
    }
    if options.heavy:
        env["BENCH_HEAVY"] = "1"
    deploy = [sys.executable, "-m", "modal", "deploy", "app.py"]
    subprocess.run(deploy, env=env, check=True, stdout=subprocess.DEVNULL, cwd=HERE)
    command = [
        *(sys.executable, str(HERE / "measure.py"), options.host_python, ",".join(names)),
        *(str(options.restores), str(options.plain), info["http_url"]),
    ]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    listing = subprocess.run([*STOKER, "snapshots", "list", "--json", "--data", data], capture_output=True, text=True)
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"starts": results, "snapshots": json.loads(listing.stdout)}


def show(results: dict[str, Any]) -> None:
    table = Table(title=f"Cold starts, seconds from call to answer ({os.cpu_count()} processors, {platform.release()})")
    for column in ("what", "how", "n", "min", "p50", "p95", "max", "times faster"):
        table.add_column(column, justify="left" if column in ("what", "how") else "right")
    for what, row in results["starts"].items():
        restored = statistics.median(row["restored"]) if row["restored"] else None
        for how in ("host", "loaded", "saving", "restored"):
            times = sorted(row[how])
            if not times:
                continue
            middle = statistics.median(times)
            p95 = times[min(len(times) - 1, int(len(times) * 0.95))]
            ratio = f"{middle / restored:.1f}" if restored else ""
            table.add_row(what, how, str(len(times)), *(f"{t:.3f}" for t in (times[0], middle, p95, times[-1])), ratio)
        if row["failed"]:
            table.add_row(what, "failed", str(row["failed"]))
    console = Console(width=120)
    console.print(table)
    for snapshot in results["snapshots"]:
        times = snapshot["restore_seconds"]
        console.print(
            f"{snapshot['function']}: {snapshot['size_bytes'] / (1 << 20):.0f} MiB, {snapshot['hits']} starts, "
            f"{snapshot['failures']} failed, start to first poll p50 {times['p50']} s, p95 {times['p95']} s",
            markup=False,
        )


if __name__ == "__main__":
    main()
