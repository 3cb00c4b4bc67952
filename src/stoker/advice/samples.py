"""Sample inputs for a measurement: from a JSON file, a file with one JSON document a line, or a Python function."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import InvalidArgument

_MOST = 10_000
_WHOLE_CALL = {"args", "kwargs"}


@dataclass(frozen=True)
class Sample:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def read_samples(where: str) -> list[Sample]:
    """At most 10,000 of them. Raises InvalidArgument.

    `where` is `inputs.json` (a list), `inputs.jsonl`, or `inputs.py:make` (a function that returns an iterable). Each item is the one argument
    of a call, or an object with `args` (a list) and `kwargs` (an object); from Python also a tuple of arguments.
    """
    path, colon, function = where.rpartition(":")
    items = _from_python(Path(path), function) if colon and path.endswith(".py") else _from_json(Path(where))
    samples = [_sample(item, where) for item in itertools.islice(items, _MOST)]
    if not samples:
        raise InvalidArgument(f"{where} has no inputs in it.")
    return samples


def _sample(item: Any, where: str) -> Sample:
    if isinstance(item, dict) and item and item.keys() <= _WHOLE_CALL:
        args, kwargs = item.get("args", []), item.get("kwargs", {})
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
            raise InvalidArgument(f"In {where}, `args` must be a list and `kwargs` an object.")
        return Sample(tuple(args), kwargs)
    if isinstance(item, tuple):
        return Sample(item, {})
    return Sample((item,), {})


def _from_json(path: Path) -> Iterable[Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"The inputs {path} cannot be read: {error}.") from None
    if path.suffix in {".jsonl", ".ndjson"}:
        return [
            _json(line, f"line {number} of {path}") for number, line in enumerate(text.splitlines(), 1) if line.strip()
        ]
    document = _json(text, str(path))
    if not isinstance(document, list):
        raise InvalidArgument(f"{path} must hold a list, with one item for each call.")
    return document


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{where} is not JSON: {error}.") from None


def _from_python(path: Path, function: str) -> Iterable[Any]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InvalidArgument(f"There is no Python file {path}.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        items: Iterable[Any] = iter(getattr(module, function)())
    except Exception as error:
        raise InvalidArgument(f"{path}:{function} gave no inputs: {type(error).__name__}: {error}.") from None
    return items
