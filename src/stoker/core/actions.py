"""What a pool wants done: the answers of its events."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True)
class Deliver:
    """Answer the open poll of a container with these inputs (in order), each with its retry count."""

    container_id: str
    inputs: tuple[tuple[str, int], ...]
    final: bool = False  # the container must exit after these


@dataclass(frozen=True)
class Dismiss:
    """Answer the open poll of a container with the order to exit."""

    container_id: str


@dataclass(frozen=True)
class Kill:
    """End a container at once."""

    container_id: str
    reason: str


@dataclass(frozen=True)
class CancelRunning:
    """Tell a container to raise a cancellation in these inputs."""

    container_id: str
    input_ids: tuple[str, ...]


class Outcome(str, enum.Enum):
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "lost"  # its container died too often
    INIT_FAILED = "init_failed"  # the container could not start


@dataclass(frozen=True)
class Finish:
    """An input ends without a result of its own; `detail` is the sentence for the user."""

    input_id: str
    call_id: str
    outcome: Outcome
    detail: str


Action = Deliver | Dismiss | Kill | CancelRunning | Finish
