"""Measures volumes beside cp, rsync and the raw disk: `python bench/volumes/run.py [--mib 4096] [--files 10000]`.

Starts a server of its own, uploads and downloads files with the official client, and reads them in a container and on the host. All of it
shares this machine, in one run; what counts are the ratios, and on a busy machine the seconds of CPU (of the tool and of the server), which
others disturb least. Everything lies in a directory of its own (--dir says where) that is removed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
STOKER = [sys.executable, "-m", "stoker.cli.main"]
MODAL = [sys.executable, "-m", "modal"]
Seconds = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=4096, help="size of the large files")
    parser.add_argument("--files", type=int, default=10_000, help="number of small files (4 KiB each)")
    parser.add_argument("--runtime", choices=("process", "runsc"), default="runsc")
    parser.add_argument("--dir", help="where to work; needs seven times the size of a large file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stoker-bench-", dir=options.dir) as name:
        directory = Path(name)
        up = [*STOKER, "up", "--detach", "--data", name + "/data", "--port", "0", "--runtime", options.runtime]
        subprocess.run(up, check=True, stdout=subprocess.DEVNULL)
        try:
            results = measure(directory, options.mib, options.files)
        finally:
            subprocess.run([*STOKER, "down", "--data", name + "/data"], check=True, stdout=subprocess.DEVNULL)
    results["load"] = {"one minute": os.getloadavg()[0]}
    print(json.dumps(results)) if options.json else show(results, options.mib, options.files)


def measure(directory: Path, mib: int, files: int) -> Seconds:
    """Seconds by kind of files and tool; bytes per second for reads."""
    info = json.loads((directory / "data" / "server.json").read_text())
    token = json.loads((directory / "data" / "token.json").read_text())
    env = os.environ | {
        "MODAL_SERVER_URL": info["url"],
        "MODAL_TOKEN_ID": token["id"],
        "MODAL_TOKEN_SECRET": token["secret"],
    }

    def run(*command: str) -> None:
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, cwd=HERE)

    run(*MODAL, "volume", "create", "bench")
    results: Seconds = {}
    server = psutil.Process(info["pid"])
    sources = {
        f"{mib} MiB random": make_random(directory / "random", mib),
        f"{mib} MiB sparse": make_sparse(directory / "sparse", mib),
        f"{files} small files": make_small(directory / "small", files),
    }
    for kind, source in sources.items():
        results[kind] = move(directory, source, run, server)
    print("floor of the client ...", file=sys.stderr)
    floor = [sys.executable, str(HERE / "floor.py"), str(mib)]
    done = subprocess.run(floor, check=True, stdout=subprocess.PIPE, env=env | {"STOKER_BENCH_DIR": str(directory)})
    results[f"{mib} MiB random"] |= {f"client alone: {what}": s for what, s in json.loads(done.stdout).items()}
    results["reads"] = reads(directory, env)
    return results


def move(directory: Path, source: Path, run: Callable[..., None], server: psutil.Process) -> dict[str, float]:
    """Seconds of each way to bring the files somewhere and back; with "CPU" and "server CPU" before it, seconds of processors."""
    copy, back = directory / "copy", directory / "back"
    tools = {
        "cp": lambda: run("cp", "-r", str(source), str(copy)),
        "rsync": lambda: run("rsync", "-r", f"{source}{'/' if source.is_dir() else ''}", str(copy)),
        "put": lambda: run(*MODAL, "volume", "put", "bench", str(source), f"/{source.name}"),
        "get": lambda: run(*MODAL, "volume", "get", "bench", source.name, str(back)),
    }
    if source.is_file():
        tools["dd, past the page cache"] = lambda: run(
            "dd", f"if={source}", f"of={copy}", "bs=8M", "oflag=direct", "status=none"
        )
    seconds = {}
    for name, work in tools.items():
        if name == "rsync" and shutil.which("rsync") is None:
            continue
        back.mkdir(exist_ok=True)
        print(f"{source.name}: {name} ...", file=sys.stderr)
        begin, own, its = time.perf_counter(), _cpu_of_children(), _cpu(server)
        work()
        seconds[name] = time.perf_counter() - begin
        seconds[f"CPU {name}"], seconds[f"server CPU {name}"] = _cpu_of_children() - own, _cpu(server) - its
        for rest in (copy, back):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink(missing_ok=True)
        os.sync()  # what one leaves to be written is not the next one's burden
    return seconds


def reads(directory: Path, env: dict[str, str]) -> dict[str, float]:
    """Bytes per second of each kind of read, on the host ("host: ...") and in a container ("inside: ...")."""
    print("reads ...", file=sys.stderr)
    [volume] = (directory / "data" / "volumes").glob("vo-*")
    names = {"sequential": "random", "random 1 MiB": "random", "random 4 KiB": "random", "mmap": "random"}
    names["small files"] = "small"
    paths = {what: str(volume / name) for what, name in names.items()}
    done = subprocess.run(
        [sys.executable, str(HERE / "reads.py"), json.dumps(paths)], check=True, stdout=subprocess.PIPE
    )
    found = {f"host: {what}": rate for what, rate in json.loads(done.stdout).items()}
    subprocess.run([*MODAL, "deploy", "app.py"], check=True, env=env, cwd=HERE, stdout=subprocess.DEVNULL)
    program = (
        "import json, modal, sys\n"
        "f = modal.Function.from_name('bench-volumes', 'inside')\n"
        "print(json.dumps(f.remote(json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(names)], check=True, env=env, stdout=subprocess.PIPE
    )
    return found | {f"inside: {what}": rate for what, rate in json.loads(done.stdout.splitlines()[-1]).items()}


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def make_random(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        for _ in range(mib // 8):
            file.write(os.urandom(8 << 20))
    return path


def make_sparse(path: Path, mib: int) -> Path:
    """One MiB of data in every 64."""
    with path.open("wb") as file:
        for start in range(0, mib, 64):
            file.seek(start << 20)
            file.write(os.urandom(1 << 20))
        file.truncate(mib << 20)
    return path


def make_small(path: Path, files: int) -> Path:
    for number in range(files):
        file = path / f"{number % 100:02}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(4096))
    return path


def show(results: Seconds, mib: int, files: int) -> None:
    console = Console()
    table = Table(title="Bringing files to a volume and back")
    for column in ("files", "way", "s", "x the speed of cp", "x of the client alone", "CPU s", "server CPU s"):
        table.add_column(column, justify="left" if column in ("files", "way") else "right")
    for kind, row in results.items():
        if kind in ("reads", "load"):
            continue
        for way, seconds in row.items():
            if "CPU" in way:
                continue
            alone = row.get(f"client alone: {way}")
            cells = [f"{seconds:.2f}", f"{row['cp'] / seconds:.2f}", f"{alone / seconds:.2f}" if alone else ""]
            cells += [
                f"{row[f'{whose} {way}']:.2f}" if f"{whose} {way}" in row else "" for whose in ("CPU", "server CPU")
            ]
            table.add_row(kind, way, *cells)
    console.print(table)
    table = Table(title="Reading files of a volume")
    for column in ("read", "host MB/s", "in a container MB/s", "ratio"):
        table.add_column(column, justify="left" if column == "read" else "right")
    rates = results["reads"]
    for what in (name.removeprefix("host: ") for name in rates if name.startswith("host: ")):
        host, inside = rates[f"host: {what}"], rates[f"inside: {what}"]
        table.add_row(what, f"{host / 1e6:.0f}", f"{inside / 1e6:.0f}", f"{inside / host:.2f}")
    console.print(table)
    console.print(f"Load of the machine at the end: {results['load']['one minute']:.1f}")


if __name__ == "__main__":
    main()
