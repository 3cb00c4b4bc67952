"""Stoker's main job, end to end: an unmodified Modal app builds its image, loads a model and makes a video.

.venv/bin/python examples/diffusion/demo.py [--data DIR] [--out DIR] [--report FILE] [--real-gpu] [--keep]

Starts a server for the time of the demo, runs the same `modal` commands you would type, and ends with the path of
the .mp4 and where the time went. A second run is faster: the image and the weights are still there.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
STOKER, MODAL = (str(Path(sys.executable).with_name(name)) for name in ("stoker", "modal"))

PROMPT = "a cat on a bench in front of a lake at sunset"
CURSOR_MOVES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
VIDEO = {"width": 256, "height": 160, "frames": 25}

console = Console(highlight=False)


class StepFailed(Exception):
    """A step of the demo did not do what it should; the text says which one and what it said."""


@dataclass
class Report:
    """What the demo made. `seconds` maps each stage to its wall time."""

    video: str = ""
    found: dict[str, str | int | float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def as_table(self) -> Table:
        table = Table("stage", "seconds", title="Where the time went", title_justify="left")
        table.columns[1].justify = "right"
        for stage, seconds in self.seconds.items():
            table.add_row(stage, f"{seconds:.2f}")
        return table


@dataclass
class Output:
    """The lines a command printed, with the second of its run at which each came."""

    lines: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0

    def match(self, pattern: str) -> tuple[float, re.Match[str]]:
        """The first line that holds `pattern`. Raises StepFailed when there is none."""
        for second, line in self.lines:
            if found := re.search(pattern, line):
                return second, found
        raise StepFailed(f"the command ended well, but printed nothing like {pattern!r}")

    @property
    def until_created(self) -> float:
        """Seconds `modal run` took to have its image and functions on the server."""
        return self.match(r"Created objects")[0] - self.match(r"Initialized")[0]


def demo(data: Path, out: Path, real_gpu: bool, keep: bool) -> Report:
    """Runs all steps against a server on `data`; the video ends up in `out`. Raises StepFailed."""
    report = Report()
    with server(data, real_gpu, keep, report):
        step("Weights: a tiny random model, made in a container and committed to a Volume")
        weights = modal(data, "run", HERE / "tiny_weights.py")
        report.seconds["image: build, or find unchanged"] = weights.until_created
        report.seconds["weights: container, imports, save, commit"] = weights.seconds - weights.until_created

        step("The app: load the model on a GPU class, make two videos")
        app = HERE / "app.py"
        flags = [text for name, value in VIDEO.items() for text in (f"--{name}", value)]
        videos = modal(data, "run", app, "--prompt", PROMPT, *flags, "--steps", 4, "--calls", 2)
        calls = [videos.match(rf"call {number}: /outputs/(\S+\.mp4) in ([\d.]+) s")[1] for number in (1, 2)]
        video = calls[1][1]
        report.seconds["first call: container, imports, load, generate"] = float(calls[0][2])
        report.seconds["second call: generate"] = float(calls[1][2])

        step("Check: decode every frame, in another container")
        check = modal(data, "run", HERE / "check_video.py", "--path", f"/outputs/{video}")
        report.found = json.loads(check.match(r"^\{.*\}$")[1][0])
        report.seconds["check: image, container, decode"] = check.seconds
        wrong = {name: report.found[name] for name, value in VIDEO.items() if report.found[name] != value}
        if wrong or not float(report.found["contrast"]) > 0:
            raise StepFailed(f"the video is not what was asked for: {report.found}, wanted {VIDEO}")

        step("Fetch: bring the file from the Volume to this machine")
        out.mkdir(parents=True, exist_ok=True)
        fetch = modal(data, "volume", "get", "--force", "example-diffusion-outputs", video, out / video)
        report.seconds["fetch"] = fetch.seconds
        report.video = str(out / video)
    return report


@contextmanager
def server(data: Path, real_gpu: bool, keep: bool, report: Report) -> Iterator[None]:
    """A server on `data` for the duration, or for good with `keep`."""
    step("Server: one machine, sandboxes, " + ("its own GPUs" if real_gpu else "one GPU declared but not there"))
    gpus = [] if real_gpu else ["--fake-gpus", "H100:1"]
    started = run([STOKER, "up", "--detach", "--data", data, "--port", 0, *gpus])
    report.seconds["server: start"] = started.seconds
    try:
        yield
    finally:
        if keep:
            console.print(f"\nThe server runs on. Use it: [bold]stoker run --data {data} -- modal app list[/]")
            console.print(f"Stop it:     [bold]stoker down --data {data}[/]")
        else:
            run([STOKER, "down", "--data", data])


def modal(data: Path, *arguments: object) -> Output:
    return run([STOKER, "run", "--data", data, "--", MODAL, *arguments])


def run(command: list[object]) -> Output:
    """Runs a command, shows its output as it comes, and returns it. Raises StepFailed when it exits with an error."""
    words = [str(word) for word in command]
    typed = shlex.join(Path(word).name if word in (STOKER, MODAL) else relative(word) for word in words)
    console.print(Text(f"$ {typed}", style="cyan"), soft_wrap=True)
    output, started = Output(), time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": str(max(console.width - 2, 40))}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            line = CURSOR_MOVES.sub("", line).rstrip()  # progress bars move the cursor; here each state is a line
            output.lines.append((time.monotonic() - started, line))
            console.print(Text(f"  {line}", style="dim"), soft_wrap=True)
    output.seconds = time.monotonic() - started
    if process.returncode:
        raise StepFailed(f"`{typed}` ended with exit code {process.returncode}; its output is above.")
    return output


def relative(word: str) -> str:
    """A path as one would type it here; any other word as it is."""
    return word.removeprefix(f"{Path.cwd()}{os.sep}")


def step(title: str) -> None:
    console.print(f"\n[bold]{title}[/]")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY / ".stoker" / "demo", help="the server's directory")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where the video goes")
    parser.add_argument("--report", type=Path, help="also write what was found and the timings here, as JSON")
    parser.add_argument("--real-gpu", action="store_true", help="use this machine's H100 instead of a declared one")
    parser.add_argument("--keep", action="store_true", help="leave the server running")
    options = parser.parse_args()
    try:
        report = demo(options.data.absolute(), options.out.absolute(), options.real_gpu, options.keep)
    except StepFailed as failure:
        console.print(Text(f"\nThe demo failed: {failure}", style="bold red"))
        return 1
    except KeyboardInterrupt:
        return 130
    if options.report:
        options.report.write_text(json.dumps(asdict(report), indent=2))
    console.print()
    console.print(report.as_table)
    found = report.found
    size = f"{found['width']}x{found['height']}"
    console.print(f"{found['frames']} frames of {size}, {found['codec']}; random weights draw noise.")
    console.print(f"\n[bold green]{report.video}[/]", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
