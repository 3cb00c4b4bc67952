"""`stoker env`: the variables that point a shell's `modal` client at the running server."""

from __future__ import annotations

import enum
import sys
from typing import Annotated

import typer

from stoker.cli import console
from stoker.cli.client import require_server
from stoker.cli.options import Data, Json, data_dir


class Shell(str, enum.Enum):
    SH = "sh"
    FISH = "fish"


def env(
    data: Data = None,
    shell: Annotated[Shell, typer.Option(help="Whose syntax to print.")] = Shell.SH,
    json: Json = False,
) -> None:
    """Print the lines that point this shell's modal client at the server.

    Examples:

    - `eval "$(stoker env)"`
    - `stoker env --shell fish | source`
    """
    variables = require_server(data_dir(data), data).environment()
    if json:
        console.print_json(variables)
        return
    for name, value in variables.items():
        sys.stdout.write(assignment(name, value, shell) + "\n")


def assignment(name: str, value: str, shell: Shell) -> str:
    """One line that exports a variable, its value quoted so that the shell takes every character as it is."""
    if shell is Shell.FISH:
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {name} '{escaped}'"
    escaped = value.replace("'", "'\\''")
    return f"export {name}='{escaped}'"
