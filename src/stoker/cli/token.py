"""`stoker token`: the tokens with which clients call the server."""

from __future__ import annotations

import re
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
from stoker.cli.status import duration
from stoker.errors import InvalidArgument

cli = typer.Typer(
    help="Make, list, disable and delete the tokens with which clients call the server.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
_PATH = "/_stoker/tokens"
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Which = Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, or its name when no other has it.")]


@cli.command()
def new(
    name: Annotated[str, typer.Option(help="What or whom it is for.", show_default=False)] = "",
    expires_in: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long it is good, as 12h or 30d.", show_default="for ever")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a token. Its secret is shown this once.

    Examples:

    - `stoker token new --name laptop`
    - `stoker token new --name ci --expires-in 30d --json`
    """
    lifetime = None if expires_in is None else seconds(expires_in)
    connection = require_server(data_dir(data), data)
    token = connection.request("POST", _PATH, {"name": name, "lifetime_seconds": lifetime})
    if json:
        console.print_json(token | {"server_url": connection.server.url})
        return
    out = console.out()
    out.print(f"MODAL_SERVER_URL={connection.server.url}", markup=False)
    out.print(f"MODAL_TOKEN_ID={token['id']}", markup=False)
    out.print(f"MODAL_TOKEN_SECRET={token['secret']}", markup=False)
    console.err().print(
        "The secret is shown this once. On the machine that uses it, export these three, or keep them in ~/.modal.toml with "
        "`MODAL_SERVER_URL=... modal token set`.",
        markup=False,
    )


@cli.command("list")
def list_(data: Data = None, json: Json = False) -> None:
    """Show all tokens, without their secrets."""
    tokens = require_server(data_dir(data), data).get(_PATH)["tokens"]
    if json:
        console.print_json(tokens)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("Token", "Name", "State", "Made", "Last used"):
        table.add_column(column, overflow="fold")
    now = time.time()
    for token in tokens:
        used = token["last_used_at"]
        table.add_row(
            token["id"],
            Text(token["name"]),
            _state(token, now),
            f"{duration(now - token['created_at'])} ago",
            f"{duration(now - used)} ago" if used else "never",
        )
    console.out().print(table)


@cli.command()
def disable(token: Which, data: Data = None, json: Json = False) -> None:
    """Let a token open nothing until it is enabled again."""
    _change("POST", token, "/disable", "Disabled", data, json)


@cli.command()
def enable(token: Which, data: Data = None, json: Json = False) -> None:
    """Let a disabled token work again."""
    _change("POST", token, "/enable", "Enabled", data, json)


@cli.command()
def delete(token: Which, data: Data = None, json: Json = False) -> None:
    """Delete a token for good."""
    _change("DELETE", token, "", "Deleted", data, json)


@cli.command()
def approve(
    code: Annotated[str, typer.Argument(help="What `modal token new` shows.")], data: Data = None, json: Json = False
) -> None:
    """Give a token to whoever runs `modal token new` and shows this code."""
    token = require_server(data_dir(data), data).request("POST", f"{_PATH}/approve", {"code": code})
    if json:
        console.print_json(token)
    else:
        console.out().print(f"Approved: the client that showed {code} has the token {token['id']} now.", markup=False)


def seconds(text: str) -> float:
    """The length of "90s", "30m", "12h" or "7d". Raises InvalidArgument."""
    match = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if match is None or int(match[1]) == 0:
        raise InvalidArgument(f"{text!r} is no length of time: write a number and s, m, h or d, as 12h or 30d.")
    return float(int(match[1]) * _UNITS[match[2]])


def _change(method: str, which: str, action: str, done: str, data: Any, json: bool) -> None:
    token = require_server(data_dir(data), data).request(method, f"{_PATH}/{quote(which, safe='')}{action}")
    if json:
        console.print_json(token)
    else:
        name = f" ({token['name']})" if token["name"] else ""
        console.out().print(f"{done} {token['id']}{name}.", markup=False)


def _state(token: dict[str, Any], now: float) -> str:
    if not token["enabled"]:
        return "disabled"
    if token["expires_at"] is None:
        return "enabled"
    left = token["expires_at"] - now
    return f"enabled, {duration(left)} left" if left > 0 else "expired"
