"""`stoker snapshots`: the memory snapshots from which functions start."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from stoker.cli import console
from stoker.cli.client import require_server
from stoker.cli.options import Data, Json, data_dir
from stoker.cli.status import duration, size

cli = typer.Typer(
    help="Show and remove the memory snapshots from which functions start.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
_PATH = "/_stoker/snapshots"

Which = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Its id, as `stoker snapshots list` shows it.")]


@cli.command("list")
def list_(data: Data = None, json: Json = False) -> None:
    """Show all snapshots, the most recently used first.

    Examples:

    - `stoker snapshots list`
    - `stoker snapshots list --json | jq '.[] | select(.state != "ready")'`
    """
    snapshots = require_server(data_dir(data), data).get(_PATH)["snapshots"]
    if json:
        console.print_json(snapshots)
        return
    if not snapshots:
        console.out().print(
            "No snapshots. Functions of deployed apps with enable_memory_snapshot=True get one at their first start.",
            markup=False,
        )
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Snapshot", min_width=25)
    for column in ("State", "Size", "Age", "Hits", "p50/p95 s", "Failed"):
        table.add_column(column, no_wrap=True)
    for snapshot in snapshots:
        table.add_row(
            Text(f"{snapshot['id']}\n{_whose(snapshot)}"),
            snapshot["state"],
            size(snapshot["size_bytes"]),
            " ".join(duration(time.time() - snapshot["created_at"]).split()[:2]),
            str(snapshot["hits"]),
            _times(snapshot),
            str(snapshot["failures"]),
        )
    console.out().print(table)
    for snapshot in snapshots:
        if snapshot["reason"]:
            console.out().print(f"{snapshot['id']}: {snapshot['reason']}", markup=False)


@cli.command()
def show(snapshot: Which, data: Data = None, json: Json = False) -> None:
    """Show everything about one snapshot."""
    document = require_server(data_dir(data), data).get(f"{_PATH}/{quote(snapshot, safe='')}")
    if json:
        console.print_json(document)
        return
    now = time.time()
    lines = {
        "state": document["state"],
        "reason": document["reason"],
        "app": f"{document['app']} ({document['app_id']})" if document["app"] else "",
        "function": f"{document['function']} ({document['function_id']})" if document["app"] else "",
        "parameters": document["parameters"],
        "base of": "" if document["app"] else f"the image {document['function_id']}",
        "size": size(document["size_bytes"]),
        "made": f"{duration(now - document['created_at'])} ago",
        "last used": f"{duration(now - document['used_at'])} ago",
        "starts": str(document["hits"]),
        "restore": f"{_times(document)} s (p50/p95 of the last {document['restore_seconds']['n']})",
        "failures": f"{document['failures']}, {document['failures_in_a_row']} of them since the last success",
        "in use by": ", ".join(document["containers"]),
        "key": document["key"],
    }
    for name, value in lines.items():
        if value:
            console.out().print(f"{name:<10} {value}", markup=False)


@cli.command()
def rm(snapshot: Which, data: Data = None, json: Json = False) -> None:
    """Remove a snapshot. The next start of its function makes a new one; a dropped one gets a new chance that way."""
    document = require_server(data_dir(data), data).request("DELETE", f"{_PATH}/{quote(snapshot, safe='')}")
    if json:
        console.print_json(document)
    else:
        console.out().print(f"Removed {document['id']}: {_whose(document)}.", markup=False)


def _whose(snapshot: dict[str, Any]) -> str:
    parameters = f"({snapshot['parameters']})" if snapshot["parameters"] else ""
    return ", ".join(filter(None, (snapshot["app"], snapshot["function"] + parameters)))


def _times(snapshot: dict[str, Any]) -> str:
    p50, p95 = snapshot["restore_seconds"]["p50"], snapshot["restore_seconds"]["p95"]
    return "-" if p50 is None else f"{p50:.2f}/{p95:.2f}"
