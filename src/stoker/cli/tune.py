"""`stoker tune`: which settings a deployed function wants, measured on it and replayed from the traffic it had."""

from __future__ import annotations

import enum
import json as jsonlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from stoker.advice import chart, keepalive
from stoker.advice.keepalive import Plan
from stoker.advice.measure import Measurement, Setting, Variants, restart, sizes, sweep
from stoker.advice.recommend import Choice, choose
from stoker.advice.samples import read_samples
from stoker.cli import console
from stoker.cli.client import Connection, require_server
from stoker.cli.options import Data, Json, data_dir
from stoker.cli.tune_report import document, print_advice, print_measurements
from stoker.core.autoscaler import ScalingSettings
from stoker.errors import FailedPrecondition, InvalidArgument, NotFound, StokerError
from stoker.simulation.trace import TracedFunction

_REPLAYED = 20_000  # inputs; the newest count


class Kind(str, enum.Enum):
    AUTO = "auto"
    CONCURRENCY = "concurrency"
    BATCH = "batch"


def tune(
    target: Annotated[
        str,
        typer.Argument(
            metavar="APP.FUNCTION",
            help="What to tune: a deployed function, or APP.CLASS.METHOD.",
            autocompletion=lambda: _deployed(),
        ),
    ],
    function: Annotated[
        str | None, typer.Argument(metavar="FUNCTION", help="The function, when only the app was named before.")
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Sample inputs: a .json list, .jsonl, or file.py:function. Without, only traffic is looked at.",
        ),
    ] = None,
    kind: Annotated[
        Kind, typer.Option(help="What to sweep; auto sweeps batch sizes of batched functions, else concurrency.")
    ] = Kind.AUTO,
    most: Annotated[
        int, typer.Option("--max-size", min=1, max=1000, help="The largest concurrency or batch tried.")
    ] = 64,
    wait_ms: Annotated[
        int | None, typer.Option(min=0, help="How long a batch waits to fill.", show_default="the function's, else 50")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each setting is measured.")] = 10.0,
    latency: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds within which 95% of the calls must be answered.", show_default=False),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0.0, help="What a container costs an hour, in any currency.", show_default=False)
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0.0, help="Container-seconds that are worth one second of somebody's waiting.")
    ] = 10.0,
    days: Annotated[float, typer.Option(min=0.00001, help="How far to look back for recorded traffic.")] = 7.0,
    parameters: Annotated[str, typer.Option(metavar="JSON", help="Parameters of the class, as an object.")] = "{}",
    start_timeout: Annotated[
        float, typer.Option(min=1.0, help="Seconds to wait for the first answer of each setting.")
    ] = 600.0,
    environment: Annotated[
        str | None, typer.Option("--env", help="Environment of the app.", show_default=False)
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the sweep into this file.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Measure a deployed function and its traffic, and recommend settings with what to expect of them.

    With `--inputs` the function is called with them, in a container of its own for each concurrency or batch size, by callers that never
    pause. Results are thrown away, but what the calls do is done. The traffic that the server recorded is replayed through its own scaling
    to choose min_containers, buffer_containers and scaledown_window.

    Examples:

    - `stoker tune my-app.Model.embed --inputs sentences.json --price 0.80`
    - `stoker tune my-app generate --inputs samples.py:prompts --latency 2 --plot sweep.svg`
    - `stoker tune my-app.generate --days 1 --json`
    """
    connection = require_server(data_dir(data), data)
    app, function, known = _look_up(connection, target, function, environment, days)
    settings = known["settings"]
    measurements: list[Measurement] = []
    if inputs is not None:
        samples = read_samples(inputs)
        batched = settings["max_batch_size"] > 1
        if kind is Kind.BATCH and not batched:
            raise FailedPrecondition(
                f"{function} is not batched, so it takes no lists. Decorate it with @modal.batched and deploy it first."
            )
        if kind is Kind.AUTO:
            kind = Kind.BATCH if batched else Kind.CONCURRENCY
        wait = wait_ms if wait_ms is not None else settings["wait_ms"] if batched else 50
        os.environ.update(connection.environment())  # the client reads them when it is first used
        variants = Variants(app, function, environment, _object(parameters))
        present = _present_sizes(settings, kind)
        measurements = sweep(
            variants,
            samples,
            [Setting(kind.value, size, wait if kind is Kind.BATCH else 0) for size in sizes(most, *present)],
            seconds=seconds,
            start_timeout=start_timeout,
            at_least=max(present),
            on_begin=lambda setting: _say(f"{setting.kind} {setting.size} ..."),
            on_end=lambda m: _say(_line(m)),
        )
    choice = choose(measurements, latency)
    if measurements and choice is None:
        raise FailedPrecondition(f"Every call failed. The first said: {measurements[0].failure}")
    if choice is not None and settings["memory_snapshot"]:
        _say("another start, from the snapshot ...")
        again = restart(variants(choice.measurement.setting), samples[0], start_timeout=start_timeout)
        measured = replace(choice.measurement, first=again)
        measurements = [measured if each is choice.measurement else each for each in measurements]
        choice = replace(choice, measurement=measured)
    found, current, traffic = _replayed(known, choice, patience, latency)
    if choice is None and found is None:
        raise FailedPrecondition(
            f"{function} has no recorded traffic of the last {days:g} days, and no --inputs were given. "
            "Give some sample inputs, or call it first."
        )
    if plot is not None and measurements:
        _draw(plot, f"{app}.{function}", measurements, choice)
    if json:
        console.print_json(document(app, function, settings, measurements, choice, found, current, traffic, price))
        return
    if measurements:
        print_measurements(measurements, choice, price)
    print_advice(settings, choice, found, current, traffic, price)


def _deployed() -> list[str]:
    """For the shell's completion: what runs on the default server, as APP.FUNCTION; nothing when there is none."""
    try:
        status = require_server(data_dir(None), None).get("/_stoker/status")
    except StokerError:
        return []
    return [f"{row['app']}.{row['name'].removesuffix('.*')}" for row in status.get("functions", [])]


def _look_up(
    connection: Connection, target: str, function: str | None, environment: str | None, days: float
) -> tuple[str, str, dict[str, Any]]:
    """App, function, and what the server knows of it. Names of apps may have dots, so each is tried. Raises NotFound."""
    cuts = [index for index, character in enumerate(target) if character == "."]
    pairs = [(target, function)] if function else [(target[:cut], target[cut + 1 :]) for cut in cuts]
    if not pairs:
        raise InvalidArgument(f"{target!r} names no function. Write APP.FUNCTION or APP.CLASS.METHOD.")
    query = urlencode({"environment": environment or "", "seconds": days * 86_400})
    failure: NotFound | None = None
    for app, name in pairs:
        try:
            known = connection.get(f"/_stoker/functions/{quote(app, safe='')}/{quote(str(name), safe='')}?{query}")
            return app, str(name), known
        except NotFound as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _present_sizes(settings: Mapping[str, Any], kind: Kind) -> list[int]:
    if kind is Kind.BATCH:
        return [settings["max_batch_size"]]
    return sorted({max(1, round(settings["target_inputs"])), max(1, settings["max_inputs"])})


def _object(text: str) -> dict[str, Any]:
    try:
        document = jsonlib.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"--parameters is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise InvalidArgument('--parameters must be an object, like {"size": "large"}.')
    return document


def _replayed(
    known: Mapping[str, Any], choice: Choice | None, patience: float, latency: float | None
) -> tuple[Plan | None, Plan | None, TracedFunction | None]:
    """The best plan for the recorded traffic, how the present settings do on it, and the traffic; None without any."""
    recorded = sorted(known["inputs"])[-_REPLAYED:]
    if not recorded or known["settings"]["max_containers"] == 0:
        return None, None, None
    settings, begin = known["settings"], recorded[0][0]
    start = known["start_seconds"].get("p50") or 2.0
    traffic = TracedFunction(
        "recorded",
        tuple(arrived - begin for arrived, _ in recorded),
        tuple(max(run, 0.0) for _, run in recorded),
        start,
        max(1, int(settings["target_inputs"] * settings["max_batch_size"])),
    )
    seconds = max(known["until"] - begin, 1.0)
    most = settings["max_containers"]
    now = ScalingSettings(settings["min_containers"], most, settings["buffer_containers"], settings["scaledown_window"])
    present = keepalive.plan(traffic, seconds, now)
    if choice is not None:
        measured = choice.measurement
        traffic = replace(
            traffic,
            runs=(measured.p50,) * len(recorded),
            start=max(measured.first - measured.p50, 0.0),
            concurrency=measured.setting.size,
        )
    run = sorted(traffic.runs)[len(traffic.runs) // 2]
    wait = max(latency - run, 0.0) if latency is not None else None
    plans = list(keepalive.plans(traffic, seconds, most))
    return keepalive.best(plans, len(recorded), patience, wait), present, traffic


def _draw(path: Path, title: str, measurements: Sequence[Measurement], choice: Choice | None) -> None:
    try:
        path.write_text(chart.svg(title, measurements, choice.measurement if choice else None))
    except OSError as error:
        raise InvalidArgument(f"The plot cannot be written to {path}: {error.strerror}.") from None


def _line(m: Measurement) -> str:
    if m.failures:
        return f"  {m.failures} of {m.calls} calls failed: {m.failure}"
    return f"  {m.throughput:.1f} inputs/s, p95 {m.p95:.3f} s"


def _say(text: str) -> None:
    console.err().print(text, markup=False, style="dim")
