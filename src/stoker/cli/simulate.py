"""`stoker simulate`: what policies of scaling would make of traffic."""

from __future__ import annotations

import enum
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from stoker.cli import console
from stoker.cli.client import require_server
from stoker.cli.options import Data, Json, data_dir
from stoker.errors import InvalidArgument
from stoker.simulation.comparison import Summary, compare
from stoker.simulation.generators import GENERATORS
from stoker.simulation.trace import DEFAULT_START, Trace, make_trace, read_trace, write_trace

_BAR = 40  # characters


class Shape(str, enum.Enum):
    AZURE = "azure"
    POISSON = "poisson"
    BURSTS = "bursts"
    DIURNAL = "diurnal"


def simulate(
    trace: Annotated[
        Path | None,
        typer.Argument(help="A .csv or .json file with recorded traffic.", exists=False, metavar="TRACE"),
    ] = None,
    generate: Annotated[
        Shape, typer.Option(help="The shape of made-up traffic, when there is no TRACE.")
    ] = Shape.AZURE,
    from_server: Annotated[bool, typer.Option("--from-server", help="Take what this server has recorded.")] = False,
    functions: Annotated[int, typer.Option(min=1, max=10_000, help="How many functions to make up.")] = 20,
    hours: Annotated[
        float,
        typer.Option(min=0.01, max=2_000, help="Length of made-up traffic, or how far to look back on the server."),
    ] = 12.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same traffic and the same start times.")] = 1,
    window: Annotated[
        float, typer.Option(min=0.5, max=86_400, help="Scaledown window of the predictive policy, in seconds.")
    ] = 60.0,
    start: Annotated[
        float, typer.Option(min=0.0, help="Seconds of a container's start, where TRACE does not say.")
    ] = DEFAULT_START,
    save: Annotated[
        Path | None, typer.Option(help="Write the traffic to this .csv file, and simulate nothing.", metavar="FILE")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Write table and plot to this .svg file too.", metavar="FILE")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Replay traffic through the server's own scaling code, beside other policies at equal container-seconds.

    The predictive policy runs with the given window; each other one has its own number set so that it costs the same. The oracle knows the future.

    Examples:

    - `stoker simulate`
    - `stoker simulate --generate bursts --functions 5 --seed 7`
    - `stoker simulate --from-server --hours 48 --save traffic.csv`
    - `stoker simulate traffic.csv --window 300 --svg comparison.svg`
    """
    if trace is not None and from_server:
        raise InvalidArgument("Give a TRACE or --from-server, not both.")
    traffic = _traffic(trace, generate, from_server, functions, hours, seed, start, data)
    if save is not None:
        write_trace(traffic, save)
        console.err().print(
            f"{traffic.inputs} inputs of {len(traffic.functions)} functions are in {save}.", markup=False
        )
        return
    with console.err().status("Replaying ...") as status:
        summaries = compare(traffic, window, seed, lambda policy: status.update(f"Replaying: {policy} ..."))
    if json:
        console.print_json(
            {
                "seed": seed,
                "seconds": traffic.seconds,
                "functions": len(traffic.functions),
                "inputs": traffic.inputs,
                "policies": [asdict(summary) for summary in summaries],
            }
        )
    else:
        _print(console.out(), traffic, summaries, seed)
    if svg is not None:
        recorder = Console(record=True, width=130, file=io.StringIO(), highlight=False)
        _print(recorder, traffic, summaries, seed)
        try:
            recorder.save_svg(str(svg), title="stoker simulate")
        except OSError as error:
            raise InvalidArgument(f"The plot cannot be written to {svg}: {error}.") from None


def _traffic(
    trace: Path | None,
    generate: Shape,
    from_server: bool,
    functions: int,
    hours: float,
    seed: int,
    start: float,
    data: Path | None,
) -> Trace:
    if trace is not None:
        return read_trace(trace, start)
    if not from_server:
        made = GENERATORS[generate.value](hours * 3600, functions, seed)
        if not made.inputs:
            raise InvalidArgument("Nothing arrived in that time; make it longer, or the functions more.")
        return made
    document = require_server(data_dir(data), data).get(f"/_stoker/traffic?hours={hours:g}")
    return make_trace(
        (
            (r["function"], r["arrived_at"], r["run_seconds"], r["start_seconds"] or start, r["concurrency"])
            for r in document["inputs"]
        ),
        f"the last {hours:g} hours of this server" + (" (the newest inputs)" if document["limited"] else ""),
    )


def _print(out: Console, traffic: Trace, summaries: Sequence[Summary], seed: int) -> None:
    out.print(
        f"{traffic.inputs} inputs of {len(traffic.functions)} functions in {traffic.seconds / 3600:.1f} h, seed {seed}. "
        "Queue times in seconds over all inputs; p95/fn is the mean over functions of each one's own p95.",
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Policy", no_wrap=True)
    for column in ("Number", "Cold", "Cont.-s", "p50", "p95", "p99", "p95/fn"):
        table.add_column(column, justify="right", no_wrap=True)
    for s in summaries:
        table.add_row(
            s.policy,
            f"{s.number:.1f} s" if s.number is not None else "",
            f"{100 * s.cold / max(s.inputs, 1):.1f}%",
            f"{s.container_seconds:.0f}",
            *(f"{value:.2f}" for value in (s.p50, s.p95, s.p99, s.p95_of_functions)),
        )
    out.print(table)
    longest = max((s.p99 for s in summaries), default=0.0) or 1.0
    for label, values in (("p95", [s.p95 for s in summaries]), ("p99", [s.p99 for s in summaries])):
        out.print(f"{label} queue time", style="bold")
        for s, value in zip(summaries, values, strict=True):
            out.print(f"  {s.policy:<20}{'█' * round(_BAR * value / longest):<{_BAR}} {value:.2f} s", markup=False)
    ours, others = (
        summaries[0],
        [s for s in summaries[1:] if s.number is not None and not s.policy.startswith("stoker")],
    )
    best = min(others, key=lambda s: s.p95)
    if best.p95 > 0:
        change = 100 * (1 - ours.p95 / best.p95)
        out.print(
            f"At equal container-seconds the p95 queue time of the predictive policy is {abs(change):.0f}% "
            f"{'below' if change >= 0 else 'above'} that of {best.policy}.",
            markup=False,
        )
