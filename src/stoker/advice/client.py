"""The installed client: what of it exists, and what its functions take."""

from __future__ import annotations

import difflib
import importlib
import inspect
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any

_ALWAYS_FAIL = {"modal.web_endpoint"}
"""What is still there only to say that it is not."""


@cache
def version() -> str:
    return metadata.version("modal")


@cache
def missing(name: str) -> str:
    """The shortest beginning of a dotted name below "modal" that the client does not have, "" when it has all of it.

    What hangs on functions and values is not looked at, and neither is what is private."""
    found: Any = importlib.import_module("modal")
    reached = "modal"
    for part in name.split(".")[1:]:
        if part.startswith("_") or not isinstance(found, (ModuleType, type)):
            return ""
        reached += f".{part}"
        if reached in _ALWAYS_FAIL:
            return reached
        inner = _part(found, part, reached)
        if inner is None:
            return reached
        found = inner
    return ""


@cache
def parameters(name: str) -> frozenset[str] | None:
    """The keyword arguments of a function or class of the client; None when it takes any, or none of them can be told."""
    if missing(name):
        return None
    found: Any = importlib.import_module("modal")
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    try:
        given = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in given):
        return None
    return frozenset(each.name for each in given)


def similar(name: str) -> str:
    """The name beside a missing one that it was perhaps meant to be, or ""."""
    owner, _, last = name.rpartition(".")
    found: Any = importlib.import_module("modal")
    for part in owner.split(".")[1:]:
        found = getattr(found, part, None)
    close = difflib.get_close_matches(last, [each for each in dir(found) if not each.startswith("_")], n=1, cutoff=0.75)
    return f"{owner}.{close[0]}" if close else ""


def _part(owner: Any, name: str, dotted: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        pass
    if not isinstance(owner, ModuleType):
        return None
    try:
        return importlib.import_module(dotted)
    except ImportError:
        return None
