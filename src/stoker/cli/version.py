"""`stoker version`: the versions that a report of a problem should name."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from stoker.cli import console
from stoker.cli.options import Json


def version(json: Json = False) -> None:
    """Print the versions of Stoker, of the client it was installed with, and of Python.

    Example: `stoker version --json`
    """
    if json:
        console.print_json(versions())
    else:
        print_version()


def print_version() -> None:
    """One line on stdout."""
    found = versions()
    console.out().print(
        f"stoker {found['stoker']} (modal client {found['modal']}, Python {found['python']}, {found['system']})",
        markup=False,
    )


def versions() -> dict[str, str]:
    """Versions by name; "unknown" for a package that is not installed as one."""
    return {
        "stoker": _package("stoker"),
        "modal": _package("modal"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _package(name: str) -> str:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "unknown"
