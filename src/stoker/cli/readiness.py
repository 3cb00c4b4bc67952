"""How a server that another command started tells it the outcome: one JSON line through a pipe, or the pipe's end."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Outcome:
    """`error` is empty when the server is ready. `token` is set when this start made the first one."""

    url: str = ""
    http_url: str = ""
    runtime: str = ""
    token: tuple[str, str] | None = None
    error: str = ""


def send_outcome(descriptor: int, outcome: Outcome) -> None:
    """Writes the outcome and closes the pipe. No error when the other side has gone."""
    with os.fdopen(descriptor, "w") as pipe:
        try:
            pipe.write(json.dumps(asdict(outcome)) + "\n")
            pipe.flush()
        except BrokenPipeError:
            pass


def receive_outcome(descriptor: int) -> Outcome | None:
    """Waits for the outcome; None when the server ended without one. Closes the pipe."""
    with os.fdopen(descriptor) as pipe:
        line = pipe.readline()
    if not line:
        return None
    document = json.loads(line)
    document["token"] = tuple(document["token"]) if document["token"] else None
    return Outcome(**document)
