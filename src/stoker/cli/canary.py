"""`stoker canary`: a part of an app's inputs to another of its versions."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, urlencode

import typer

from stoker.cli import console
from stoker.cli.client import require_server
from stoker.cli.options import Data, Json, data_dir
from stoker.errors import InvalidArgument


def canary(
    app: Annotated[str, typer.Argument(help="Name of a deployed app.", metavar="APP")],
    version: Annotated[
        str,
        typer.Argument(help="A version from `modal app history` (3 or v3), `promote` or `off`.", metavar="[VERSION]"),
    ] = "",
    percent: Annotated[
        float | None, typer.Option(help="How many of a hundred inputs go to VERSION.", min=0, max=100)
    ] = None,
    environment: Annotated[str, typer.Option("--env", help="Environment of the app.", show_default=False)] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Send a part of an app's inputs to another of its versions; show it, promote it, or call it off.

    Deploy the new version with `modal deploy --staged`, or go back a step with an older one. Any deployment or rollback ends a canary.

    Examples:

    - `stoker canary shop 3 --percent 10`
    - `stoker canary shop`
    - `stoker canary shop promote`
    - `stoker canary shop off`
    """
    connection = require_server(data_dir(data), data)
    query = "?" + urlencode({"environment": environment})
    path = f"/_stoker/canaries/{quote(app, safe='')}"
    number = version.removeprefix("v")
    if number.isdigit():
        if percent is None:
            raise InvalidArgument(f"Say how much: stoker canary {app} {version} --percent 10.")
        document = connection.request("PUT", path + query, {"version": int(number), "percent": percent})
        words = "{percent:g}% of the inputs of {app} go to v{version}, the others to v{stable_version}."
    elif percent is not None:
        raise InvalidArgument(f"Say which version: stoker canary {app} VERSION --percent {percent:g}.")
    elif version == "off":
        document = connection.request("DELETE", path + query)
        words = "All inputs of {app} go to v{stable_version} again."
    elif version == "promote":
        document = connection.request("POST", path + "/promote" + query)
        words = "v{version} of {app} is deployed for all inputs."
    elif not version:
        document = connection.get(path + query)
        words = "{percent:g}% of the inputs of {app} go to v{version}, the others to v{stable_version}."
    else:
        raise InvalidArgument(f"{version!r} is no version: give a number such as 3, or `promote`, or `off`.")
    if json:
        console.print_json(document)
    elif document["canary"] is None:
        console.out().print(f"{app} has no canary.", markup=False)
    else:
        console.out().print(words.format(app=app, **document["canary"]), markup=False)
