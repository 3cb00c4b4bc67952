"""`stoker builds`: the images that are being built."""

from __future__ import annotations

import time
from typing import Annotated
from urllib.parse import quote

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from stoker.cli import console
from stoker.cli.client import require_server
from stoker.cli.options import Data, Json, data_dir
from stoker.cli.status import duration

cli = typer.Typer(
    help="Show and cancel the builds of images.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
_PATH = "/_stoker/builds"

Which = Annotated[str, typer.Argument(metavar="IMAGE", help="Its id, as `stoker builds list` shows it.")]


@cli.command("list")
def list_(data: Data = None, json: Json = False) -> None:
    """Show the builds that run and those that wait for a slot, in the order in which they were asked for.

    `modal image logs IMAGE` shows what a build says.

    Examples:

    - `stoker builds list`
    - `stoker builds list --json | jq '.[] | select(.state == "waiting")'`
    """
    builds = require_server(data_dir(data), data).get(_PATH)["builds"]
    if json:
        console.print_json(builds)
        return
    if not builds:
        console.out().print("No image is being built.", markup=False)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("Image", "State", "Age", "Step"):
        table.add_column(column, no_wrap=column != "Step", overflow="fold")
    for build in builds:
        state = build["state"] + ("" if build["watched"] else ", nobody waits for it")
        age = duration(time.time() - build["asked_at"])
        table.add_row(build["image"], state, age, Text(build["step"]))
    console.out().print(table)


@cli.command()
def cancel(image: Which, data: Data = None, json: Json = False) -> None:
    """Cancel a build. It begins anew when somebody asks for the image again.

    Examples:

    - `stoker builds cancel im-1234567890123456789012`
    """
    document = require_server(data_dir(data), data).request("DELETE", f"{_PATH}/{quote(image, safe='')}")
    if json:
        console.print_json(document)
    else:
        console.out().print(f"Cancelled the build of {document['image']}.", markup=False)
