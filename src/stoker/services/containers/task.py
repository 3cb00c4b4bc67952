"""A container as the services see it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from stoker.core.books import PooledInput
from stoker.nodes.base import Node
from stoker.nodes.endings import Exit
from stoker.services.containers.endings import Ending
from stoker.services.containers.snapshots import SnapshotUse


@dataclass(frozen=True)
class Delivery:
    """What an answered poll brings: inputs with their retry counts, or the order to exit."""

    inputs: tuple[tuple[str, int], ...] = ()
    exit: bool = False
    final: bool = False


@dataclass
class Task:
    """A container as the services see it (its wire name is task)."""

    id: str
    function_id: str
    app_id: str
    definition_id: str
    enqueued_at: float
    started_at: float | None = None
    node: Node | None = None  # that runs it; None before it was launched
    address: str = ""  # where its ports are reached, "" for none
    exit: asyncio.Future[Exit] | None = None  # how it ended, told by the node
    stopping: bool = False
    stop_reason: str = ""
    init_result: tuple[bytes, int] | None = None  # what the container said of its failed start
    cancellations: list[str] = field(default_factory=list)
    heartbeat: asyncio.Future[None] | None = None
    snapshot: SnapshotUse | None = None  # what it comes from, or is to be saved as
    lacks_snapshot: bool = False  # files of the snapshot that it was to come from are gone
    prepared: bool = False  # whether its sandbox may have been made ahead of time
    called: bool = False  # whether it has ever connected
    ending: Ending | None = None  # set when it has ended
    detail: str = ""  # why it ended, for the user
    ended: list[tuple[float, PooledInput]] = field(default_factory=list)  # its last inputs, with monotonic times of end
    job: asyncio.Task[None] | None = None
    launching: bool = False  # the job may be cancelled: only once, lest it leaves half of its cleaning up undone
    awaited_by: Collection[str] = ()  # containers that wait for results of its function
    overcommit: bool = True  # whether its function may be promised more processor time than there is

    @property
    def is_launched(self) -> bool:
        return self.node is not None

    async def signal(self, number: int) -> None:
        """Sends a signal to the user's process. No error when it does not run."""
        if self.node is not None:
            await self.node.containers.signal(self.id, number)

    async def kill(self) -> None:
        """Ends the container at once. No error when it does not run."""
        if self.node is not None:
            await self.node.containers.kill(self.id)

    async def stuck(self, timeout: float) -> str:
        """Why its program cannot go on, the last part of a sentence; empty when it can, or does not run."""
        return await self.node.containers.stuck(self.id, timeout) if self.node is not None else ""
