"""`stoker status`: what the server runs at this moment."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from stoker.cli import console
from stoker.cli.client import find_server, require_server
from stoker.cli.options import Data, Json, data_dir


def status(data: Data = None, json: Json = False) -> None:
    """Show the server's apps, functions, containers and resources. Exit code 1 when none runs.

    Examples:

    - `stoker status`
    - `stoker status --json | jq .containers`
    """
    directory = data_dir(data)
    if json and find_server(directory) is None:
        console.print_json({"running": False, "data": str(directory.path), "starting_or_stopping": directory.holder()})
        raise typer.Exit(1)
    connection = require_server(directory, data)
    document: dict[str, Any] = connection.get("/_stoker/status")
    if json:
        console.print_json({"running": True, "data": str(directory.path), "pid": connection.server.pid} | document)
        return
    _print(document | {"pid": connection.server.pid, "data": directory.path})


def _print(document: Mapping[str, Any]) -> None:
    out = console.out()
    urls = document.get("urls") or {}
    up_for = duration(document.get("uptime_seconds"))
    out.print(
        Text.assemble(
            ("Stoker", "bold"),
            f" {document.get('version', '')} up {up_for}, pid {document['pid']}, runtime {document.get('runtime', '?')}",
        )
    )
    disk = document.get("disk") or {}
    for label, value in (
        ("grpc", urls.get("grpc")),
        ("http", urls.get("http")),
        ("data", document["data"]),
        ("disk", f"{size(disk.get('free_bytes'))} free of {size(disk.get('total_bytes'))}" if disk else None),
        *(("engine", f"{name}: {_plain(value)}") for name, value in (document.get("engine") or {}).items()),
    ):
        if value is not None:
            out.print(f"  {label:<7} {value}", markup=False)
    apps = document.get("apps") or []
    functions = document.get("functions") or []
    containers = document.get("containers") or []
    _table("Apps", apps, {"App": "name", "Id": "id", "State": "state", "Containers": "containers"})
    _table(
        "Functions",
        functions,
        {"Function": "name", "App": "app", "Pending": "pending", "Running": "running", "Containers": "containers"},
    )
    now = time.time()
    _table(
        "Containers",
        [row | {"age": duration(now - row["started_at"]) if row.get("started_at") else ""} for row in containers],
        {"Container": "id", "Function": "function", "App": "app", "State": "state", "Age": "age"},
    )
    _table(
        "Image builds",
        [
            row | {"age": duration(now - row["asked_at"]), "wanted": "yes" if row["watched"] else "nobody waits"}
            for row in document.get("builds") or []
        ],
        {"Image": "image", "State": "state", "Step": "step", "Age": "age", "Waited for": "wanted"},
    )
    _table(
        "Schedules",
        [
            row | {"next": _moment(row["next_at"]), "last": _moment(row["last_at"])}
            for row in document.get("schedules") or []
        ],
        {"Function": "function", "App": "app", "Schedule": "schedule", "Next run": "next", "Last run": "last"},
    )
    for damage in document.get("damaged") or []:
        out.print(Text.assemble(("damaged: ", "bold red"), damage["detail"]))
    if not apps:
        out.print("No apps yet. Try `stoker run modal run app.py`.", markup=False)


def _table(title: str, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    rows = list(rows)
    if not rows:
        return
    table = Table(title=f"{title} ({len(rows)})", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name, key in columns.items():
        numeric = all(isinstance(row.get(key), int) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_plain(row.get(key, ""))) for key in columns.values()))
    console.out().print(table)


def _moment(seconds: float | None) -> str:
    """In the time of this machine."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return "; ".join(_plain(item) for item in value) or "none"
    return str(value)


def duration(seconds: float | None) -> str:
    """ "3 d 4 h", "5 min 12 s": two units at most; "?" when not known."""
    if seconds is None:
        return "?"
    rest = max(0, int(seconds))
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def size(count: float | None) -> str:
    """Bytes for people: "12.3 GiB"; "?" when not known."""
    if count is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
