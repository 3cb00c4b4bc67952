"""Traffic: for each function, when its inputs arrived and how long each ran."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.errors import InvalidArgument

DEFAULT_START = 2.0  # seconds, for recorded functions that do not say how long their containers take to start
_COLUMNS = ("function", "arrived_at", "run_seconds")


@dataclass(frozen=True)
class TracedFunction:
    """`arrivals` in seconds from the beginning of the trace, in order; `runs`: seconds of each input; `start`: seconds of a container's start."""

    name: str
    arrivals: tuple[float, ...]
    runs: tuple[float, ...]
    start: float = DEFAULT_START
    concurrency: int = 1  # inputs of one container at a time


@dataclass(frozen=True)
class Trace:
    functions: tuple[TracedFunction, ...]
    seconds: float

    @property
    def inputs(self) -> int:
        return sum(len(f.arrivals) for f in self.functions)


def read_trace(path: Path, start: float = DEFAULT_START) -> Trace:
    """A `.csv` file with the columns function, arrived_at and run_seconds (and, if wanted, start_seconds and concurrency), or a `.json` file with a
    list of objects of the same names, one an input. Times in seconds from any beginning. Raises InvalidArgument."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"The trace {path} cannot be read: {error}.") from None
    if path.suffix.lower() == ".json":
        rows = _json_rows(path, text)
    else:
        reader = csv.DictReader(text.splitlines())
        missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise InvalidArgument(f"The trace {path} has no column {missing[0]!r}; it needs {', '.join(_COLUMNS)}.")
        rows = [(number, row) for number, row in enumerate(reader, 2)]
    return make_trace((_row(path, number, row, start) for number, row in rows), str(path))


def make_trace(rows: Iterable[tuple[str, float, float, float, int]], source: str = "the trace") -> Trace:
    """From (function, arrived_at, run_seconds, start_seconds, concurrency). Raises InvalidArgument when there are none."""
    by_function: dict[str, list[tuple[float, float, float, int]]] = {}
    for name, arrived, run, start, concurrency in rows:
        by_function.setdefault(name, []).append((arrived, run, start, concurrency))
    if not by_function:
        raise InvalidArgument(f"There are no inputs in {source}.")
    begin = min(item[0] for items in by_function.values() for item in items)
    functions = []
    for name, items in sorted(by_function.items()):
        items.sort()
        functions.append(
            TracedFunction(
                name,
                tuple(arrived - begin for arrived, *_ in items),
                tuple(run for _, run, *_ in items),
                items[-1][2],
                items[-1][3],
            )
        )
    end = max(f.arrivals[i] + f.runs[i] for f in functions for i in (-1,))
    return Trace(tuple(functions), max(end, 1.0))


def write_trace(trace: Trace, path: Path) -> None:
    """As CSV. Raises InvalidArgument."""
    try:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow((*_COLUMNS, "start_seconds", "concurrency"))
            for f in trace.functions:
                for arrived, run in zip(f.arrivals, f.runs, strict=True):
                    writer.writerow((f.name, f"{arrived:.3f}", f"{run:.4f}", f"{f.start:.3f}", f.concurrency))
    except OSError as error:
        raise InvalidArgument(f"The trace cannot be written to {path}: {error}.") from None


def _json_rows(path: Path, text: str) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"The trace {path} is not JSON: {error}.") from None
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise InvalidArgument(f"The trace {path} must be a list of objects with {', '.join(_COLUMNS)}.")
    return list(enumerate(document, 1))


def _row(path: Path, number: int, row: Mapping[str, Any], start: float) -> tuple[str, float, float, float, int]:
    try:
        name, arrived, run = str(row["function"]), float(row["arrived_at"]), float(row["run_seconds"])
        start, concurrency = float(row.get("start_seconds") or start), int(row.get("concurrency") or 1)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"Line {number} of the trace {path} cannot be understood: {error}.") from None
    if not (run >= 0 and start >= 0 and concurrency >= 1 and abs(arrived) < 1e15):
        raise InvalidArgument(f"Line {number} of the trace {path} has a negative time, or no concurrency.")
    return name, arrived, run, start, concurrency
