"""Measures how long images take to build: `python bench/images/run.py [--rounds 3] [--other OTHER/bin/python] [--json]`, as root.

For each way of isolating steps a server of its own is started, which builds the same images by the official client, in turns with the
others. "other" is the server of another checkout, by its interpreter (of before a change, say). Each image has a step with a number that was
never built before. Downloads of packages are kept by the servers of the machine, and the base is there before the first round. Seconds from
the client's call to the finished image.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PROGRAM = """
import json, sys, time
import modal

base = modal.Image.debian_slim(python_version="3.11")
IMAGES = {
    "step": lambda image: image.run_commands("echo done > /done"),
    "apt": lambda image: image.apt_install("git"),
    "uv": lambda image: image.uv_pip_install("fastapi", "pandas"),
    "pip": lambda image: image.pip_install("numpy", "scipy"),
    "files": lambda image: image.run_commands(
        "python -c 'import pathlib; [pathlib.Path(f\\"/f{n}\\").write_text(str(n)) for n in range(5000)]'"
    ),
    "chain": lambda image: image.apt_install("curl").uv_pip_install("requests").env({"A": "1"}).run_commands("echo 1 > /one"),
    "torch": lambda image: image.uv_pip_install("torch==2.13.0", "numpy"),
}
app = modal.App.lookup("bench-images", create_if_missing=True)
name, mark = sys.argv[1:]
fresh = base.run_commands(f"echo {mark} > /mark").build(app)
begun = time.monotonic()
IMAGES[name](fresh).build(app)
print(json.dumps(time.monotonic() - begun))
"""
NAMES = ("step", "apt", "uv", "pip", "files", "chain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help=f"comma-separated names instead of all ({', '.join(NAMES)}; torch)")
    parser.add_argument("--other", type=Path, help="interpreter of another checkout, whose server is measured as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else NAMES
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stoker-bench-")))
        servers = {
            way: stack.enter_context(serving(work / way, sys.executable, STOKER_BUILD_ISOLATION=way))
            for way in ("namespaces", "gvisor")
        }
        if options.other:
            servers["other"] = stack.enter_context(serving(work / "other", str(options.other)))
        for env in servers.values():
            build(env, "step")  # brings the base in
        times: dict[str, dict[str, list[float]]] = {name: {way: [] for way in servers} for name in names}
        for _ in range(options.rounds):
            for name in names:
                for way, env in servers.items():
                    times[name][way].append(build(env, name))
    print(json.dumps(times)) if options.json else show(times)


@contextlib.contextmanager
def serving(data: Path, python: str, **settings: str) -> Iterator[dict[str, str]]:
    """The environment for clients of a server that runs meanwhile."""
    stoker = [python, "-m", "stoker.cli.main"]
    up = [*stoker, "up", "--detach", "--data", str(data), "--port", "0", "--runtime", "runsc"]
    subprocess.run(up, check=True, stdout=subprocess.DEVNULL, env=os.environ | settings)
    try:
        token = json.loads((data / "token.json").read_text())
        url = json.loads((data / "server.json").read_text())["url"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
        yield clean | {
            "MODAL_SERVER_URL": url,
            "MODAL_TOKEN_ID": token["id"],
            "MODAL_TOKEN_SECRET": token["secret"],
            "MODAL_CONFIG_PATH": str(data / "none.toml"),
        }
    finally:
        subprocess.run([*stoker, "down", "--data", str(data)], check=False, stdout=subprocess.DEVNULL)


def build(env: dict[str, str], name: str) -> float:
    command = [sys.executable, "-c", PROGRAM, name, uuid.uuid4().hex]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} could not be built:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def show(times: dict[str, dict[str, list[float]]]) -> None:
    table = Table(title="seconds to build (median); ratio to the first column, round by round")
    ways: list[str] = list(next(iter(times.values())))
    table.add_column("image")
    for way in ways:
        table.add_column(way, justify="right")
    for name, found in times.items():
        cells: list[Any] = []
        for way in ways:
            ratio = statistics.median(a / b for a, b in zip(found[way], found[ways[0]], strict=True))
            cells.append(f"{statistics.median(found[way]):.2f}  x{ratio:.2f}")
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
