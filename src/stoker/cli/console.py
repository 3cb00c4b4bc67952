"""What the commands write: results to stdout, everything else to stderr; no colours when piped or when NO_COLOR is set."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text


def out() -> Console:
    """The console for results."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """The console for everything that is not the result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout, the same whether piped or not."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_error(message: str) -> None:
    """`error: ...` on stderr."""
    err().print(Text.assemble(("error:", "bold red"), f" {message}"))
