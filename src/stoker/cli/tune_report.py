"""What `stoker tune` prints: a table of the sweep, the recommended decorators, and what to expect; or all of it as a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from stoker.advice import chart
from stoker.advice.keepalive import Plan
from stoker.advice.measure import Measurement
from stoker.advice.recommend import Choice, cost_of_1000
from stoker.cli import console
from stoker.simulation.trace import TracedFunction

_BAR = 12  # characters


def print_measurements(measurements: Sequence[Measurement], choice: Choice | None, price: float | None) -> None:
    most = max(m.throughput for m in measurements)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(measurements[0].setting.kind.capitalize(), justify="right")
    table.add_column("Inputs/s", justify="right")
    table.add_column("", min_width=_BAR)
    for column in ("p50 s", "p95 s", "First s", *(["Per 1,000"] if price else [])):
        table.add_column(column, justify="right")
    table.add_column("", overflow="fold")
    for m in measurements:
        chosen = choice is not None and m is choice.measurement
        cells = [
            str(m.setting.size),
            f"{m.throughput:.1f}",
            chart.bar(m.throughput, most, _BAR),
            f"{m.p50:.3f}",
            f"{m.p95:.3f}",
            f"{m.first:.1f}",
            *([f"{cost_of_1000(m.throughput, price):.4f}"] if price else []),
            f"{m.failures} of {m.calls} failed" if m.failures else "best" if chosen else "",
        ]
        table.add_row(*(Text(cell) for cell in cells), style="bold" if chosen else "")
    console.out().print(table)


def print_advice(
    settings: Mapping[str, Any],
    choice: Choice | None,
    found: Plan | None,
    current: Plan | None,
    traffic: TracedFunction | None,
    price: float | None,
) -> None:
    out = console.out()
    if choice is not None:
        decorator = "batched" if choice.measurement.setting.kind == "batch" else "concurrent"
        now = ", ".join(f"{name}={settings[name]:g}" for name in choice.options)
        out.print(Text.assemble((f"@modal.{decorator}({_arguments(choice.options)})", "bold"), f"   now {now}"))
        out.print(f"  {choice.reason}", markup=False)
    if found is not None and current is not None and traffic is not None:
        options = _keeping(found)
        now = _arguments(_keeping(current))
        out.print(Text.assemble((f"@app.cls({_arguments(options)})", "bold"), f"   now {now}"))
        out.print(f"  for the {len(traffic.arrivals):,} recorded inputs: {_outcome(found, price)}", markup=False)
        out.print(f"  as it is now: {_outcome(current, price)}", markup=False)
    if choice is not None:
        m = choice.measurement
        cost = f", {cost_of_1000(m.throughput, price):.4f} per 1,000 inputs" if price else ""
        out.print(
            f"Expect of a full container: {m.throughput:.1f} inputs/s, p50 {m.p50:.3f} s, p95 {m.p95:.3f} s{cost}.",
            markup=False,
        )


def _outcome(plan: Plan, price: float | None) -> str:
    cost = f" ({plan.container_hours * price:.2f})" if price else ""
    return (
        f"{plan.cold:.1%} wait for a start, p95 of the wait {plan.p95_wait:.2f} s, "
        f"{plan.container_hours:.2f} container-hours{cost}"
    )


def _keeping(plan: Plan) -> dict[str, int]:
    return {
        "min_containers": plan.min_containers,
        "buffer_containers": plan.buffer_containers,
        "scaledown_window": plan.scaledown_window,
    }


def document(
    app: str,
    function: str,
    settings: Mapping[str, Any],
    measurements: Sequence[Measurement],
    choice: Choice | None,
    found: Plan | None,
    current: Plan | None,
    traffic: TracedFunction | None,
    price: float | None,
) -> dict[str, Any]:
    """`recommended` has only what could be told. Times in seconds, costs in the currency of --price."""
    recommended: dict[str, int] = {}
    if choice is not None:
        recommended |= choice.options
    if found is not None:
        recommended |= _keeping(found)
    return {
        "app": app,
        "function": function,
        "settings": dict(settings),
        "measurements": [
            asdict(m) | {"cost_of_1000": cost_of_1000(m.throughput, price) if price and m.throughput else None}
            for m in measurements
        ],
        "recommended": recommended,
        "reason": choice.reason if choice else None,
        "expected": asdict(choice.measurement) if choice else None,
        "traffic": traffic
        and {
            "inputs": len(traffic.arrivals),
            "start_seconds": traffic.start,
            "recommended": asdict(found) if found else None,
            "current": asdict(current) if current else None,
        },
    }


def _arguments(options: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
