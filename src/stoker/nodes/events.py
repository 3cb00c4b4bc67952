"""What a node tells its observer, as values that a wire can carry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stoker.nodes.base import Observer
from stoker.nodes.endings import Exit


@dataclass(frozen=True)
class Called:
    task_id: str


@dataclass(frozen=True)
class Output:
    task_id: str
    fd: int
    text: str


@dataclass(frozen=True)
class Ended:
    task_id: str
    exit: Exit


@dataclass(frozen=True)
class LayerCompared:
    name: str
    wrong: str


@dataclass(frozen=True)
class BuildOutput:
    image_id: str
    text: str


Event = Called | Output | Ended | LayerCompared | BuildOutput


def tell(observer: Observer, event: Event) -> asyncio.Future[None] | None:
    """Tells an observer. A future says that no more output of this container is wanted until it is done."""
    if isinstance(event, Called):
        observer.called(event.task_id)
    elif isinstance(event, Output):
        return observer.output(event.task_id, event.fd, event.text)
    elif isinstance(event, Ended):
        observer.ended(event.task_id, event.exit)
    elif isinstance(event, LayerCompared):
        observer.layer_compared(event.name, event.wrong)
    else:
        observer.build_output(event.image_id, event.text)
    return None
