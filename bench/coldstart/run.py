"""Measures cold starts with and without memory snapshots: `python bench/coldstart/run.py [--heavy] [--json]`, as root.

Starts a server of its own on a free port and deploys `app.py`. Every number is the time from the client's call to its verified answer, with
no container running before. "saving" is the call whose container became the snapshot; "host" is the same code as a plain program, in a
virtual environment that is made for it; "dropped" has the files of the snapshot and of the image (or of that environment) out of the page
cache. "none" is without base snapshots too, unless --bases is given. The client, the server and the sandboxes share the machine. --heavy
adds torch, diffusers and sentence-transformers, whose image and environment take several minutes and 12 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import app
import loads
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
STOKER = [sys.executable, "-m", "stoker.cli.main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heavy", action="store_true", help="also torch, diffusers and sentence-transformers")
    parser.add_argument("--only", default="", help="comma-separated names instead of all")
    parser.add_argument("--restores", type=int, default=30)
    parser.add_argument("--others", type=int, default=5, help="starts without a snapshot, and on the host")
    parser.add_argument("--bases", action="store_true", help="without a snapshot means from the base of the image")
    parser.add_argument("--keep", type=Path, help="directory for the server's data and the host's environment, kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [*loads.LIGHT, *(loads.HEAVY if options.heavy else ())]
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as scratch:
        directory = options.keep or Path(scratch)
        host_python = host_environment(directory / "host", heavy=any(name in loads.HEAVY for name in names))
        data = directory / "data"
        up = [*STOKER, "up", "--detach", "--data", data, "--port", "0", "--runtime", "runsc"]
        env = os.environ | {"STOKER_BASE_SNAPSHOTS": str(options.bases).lower()}
        subprocess.run(up, check=True, stdout=subprocess.DEVNULL, env=env)
        try:
            results = measure(data, directory / "tiny-ltx", host_python, names, options)
        finally:
            subprocess.run([*STOKER, "down", "--data", data], check=True, stdout=subprocess.DEVNULL)
    print(json.dumps(results)) if options.json else show(results)


def host_environment(directory: Path, *, heavy: bool) -> Path:
    """An interpreter with the packages of the images, with compiled bytecode like theirs."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    python = directory / "bin" / "python"
    if not python.with_name("pip").exists():
        subprocess.run([uv, "venv", "--quiet", "--seed", "--clear", "--python", "3.11", directory], check=True)
    install = [python, "-m", "pip", "install", "--quiet"]  # as the image's: uv may choose another build of torch
    subprocess.run([*install, *app.LIGHT, *(app.HEAVY if heavy else ())], check=True)
    if heavy:
        subprocess.run([*install, "--no-deps", app.MODEL], check=True)
        weights = directory.parent / "tiny-ltx"
        subprocess.run([python, HERE / "tiny_ltx.py", weights], check=True, capture_output=True)
    return python


def measure(
    data: Path, tiny_ltx: Path, host_python: Path, names: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    info = json.loads((data / "server.json").read_text())
    token = json.loads((data / "token.json").read_text())
    env = os.environ | {
        "MODAL_SERVER_URL": info["url"],
        "MODAL_TOKEN_ID": token["id"],
        "MODAL_TOKEN_SECRET": token["secret"],
        **{
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TINY_LTX": str(tiny_ltx),
            "COMFY_STAND_IN": str(app.STAND_IN),
        },  # for the host's runs
    }
    for kind in ("light", "heavy"):
        if any((name in loads.HEAVY) == (kind == "heavy") for name in names):
            deploy = [sys.executable, "-m", "modal", "deploy", "app.py"]
            subprocess.run(deploy, env=env | {"BENCH_IMAGE": kind}, check=True, stdout=subprocess.DEVNULL, cwd=HERE)
    command = [
        *(sys.executable, HERE / "measure.py", info["http_url"], host_python, data),
        *(str(options.restores), str(options.others), ",".join(names)),
    ]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    listing = subprocess.run([*STOKER, "snapshots", "list", "--json", "--data", data], capture_output=True, text=True)
    return {"starts": json.loads(done.stdout.splitlines()[-1]), "snapshots": json.loads(listing.stdout)}


def show(results: dict[str, Any]) -> None:
    table = Table(title=f"Cold starts, seconds from call to answer ({os.cpu_count()} processors, {platform.release()})")
    for column in ("what", "how", "n", "min", "p50", "p95", "max", "failures", "load", "/ restored"):
        table.add_column(column, justify="left" if column in ("what", "how") else "right")
    for what, rows in results["starts"].items():
        restored = statistics.median(rows["restored"]["seconds"] or [0])
        for how, row in rows.items():
            times = sorted(row["seconds"])
            if times:
                middle, p95 = statistics.median(times), times[min(len(times) - 1, int(len(times) * 0.95))]
                figures = [f"{t:.2f}" for t in (times[0], middle, p95, times[-1])]
                ratio = f"{middle / restored:.2f}" if restored else ""
            else:
                figures, ratio = [""] * 4, ""
            table.add_row(what, how, str(len(times)), *figures, str(row["failures"]), str(row["load"]), ratio)
        table.add_section()
    console = Console(width=120)
    console.print(table)
    for snapshot in results["snapshots"]:
        times = snapshot["restore_seconds"]
        console.print(
            f"{snapshot['function']} {snapshot['id']}: {snapshot['size_bytes'] / (1 << 20):.0f} MiB, "
            f"{snapshot['hits']} starts, {snapshot['failures']} failed, "
            f"start to first poll p50 {times['p50']} s, p95 {times['p95']} s",
            markup=False,
        )


if __name__ == "__main__":
    main()
