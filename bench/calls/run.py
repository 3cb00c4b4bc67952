"""Measures calls through a running server: `python bench/calls/run.py [--runtime process|runsc]`.

Starts a server of its own on a free port, deploys `app.py`, and prints rates, latencies and CPU per call. The client, the server and the
containers share the machine, so the rates are those of all three together; the server's CPU per call is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
STOKER = [sys.executable, "-m", "stoker.cli.main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", choices=("process", "runsc"), default="process")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as data:
        up = [*STOKER, "up", "--detach", "--data", data, "--port", "0", "--runtime", options.runtime]
        subprocess.run(up, check=True, stdout=subprocess.DEVNULL)
        try:
            results = measure(Path(data), options.inputs)
        finally:
            subprocess.run([*STOKER, "down", "--data", data], check=True, stdout=subprocess.DEVNULL)
    print(json.dumps(results)) if options.json else show(results, options.runtime)


def measure(data: Path, inputs: int) -> dict[str, dict[str, float]]:
    info = json.loads((data / "server.json").read_text())
    token = json.loads((data / "token.json").read_text())
    env = os.environ | {
        "MODAL_SERVER_URL": info["url"],
        "MODAL_TOKEN_ID": token["id"],
        "MODAL_TOKEN_SECRET": token["secret"],
    }
    subprocess.run(
        [sys.executable, "-m", "modal", "deploy", str(HERE / "app.py")], env=env, check=True, stdout=subprocess.DEVNULL
    )
    command = [sys.executable, str(HERE / "measure.py"), str(info["pid"]), str(inputs)]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    results: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    floor = subprocess.run([sys.executable, str(HERE / "floor.py")], check=True, stdout=subprocess.PIPE, text=True)
    results["floor"] = json.loads(floor.stdout.splitlines()[-1])
    return results


def show(results: dict[str, dict[str, float]], runtime: str) -> None:
    table = Table(title=f"Calls, {runtime} runtime")
    for column in ("what", "calls/s", "p50 ms", "p99 ms", "server CPU ms/call", "client CPU ms/call"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, row in results.items():
        if "per_second" not in row:
            continue
        keys = ("per_second", "p50_ms", "p99_ms", "server_cpu_ms", "client_cpu_ms")
        table.add_row(name, *(f"{row[key]:.2f}" if key in row else "" for key in keys))
    console = Console()
    console.print(table)
    firsts = ", ".join(
        f"{n.removeprefix('first call of ')} {r['seconds']:.2f} s" for n, r in results.items() if "seconds" in r
    )
    console.print(f"First call after deployment (boot to first output): {firsts}")
    client, container = results["floor"]["client_ms"], results["floor"]["container_ms"]
    ratio = results["sequential .remote"]["p50_ms"] / (client + container)
    console.print(
        f"Floor of the client {client:.2f} ms and of a container as a process {container:.2f} ms per call: "
        f"a sequential .remote takes {ratio:.2f} times their sum."
    )


if __name__ == "__main__":
    main()
