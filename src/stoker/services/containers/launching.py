"""What a runner needs of whoever starts its containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from stoker.engine.base import Never, NotNow
from stoker.nodes.endings import Exit
from stoker.services.functions.spec import Function

if TYPE_CHECKING:
    from stoker.services.containers.task import Task


class Launcher(Protocol):
    """Starts containers; see `services/containers/launcher.py`."""

    def start_slots(self) -> int:
        """How many more containers are worth starting at once just now: none while the processors are busy."""
        ...

    def new_task_id(self, function_id: str) -> str:
        """The id for the next container of a function."""
        ...

    async def launch(self, function: Function, task: Task) -> NotNow | Never | None:
        """Starts a container for `task`, which then knows its node; or says why it cannot be placed. Raises StokerError."""
        ...

    async def end_of(self, task: Task) -> Exit:
        """Waits for the end of a container that was launched."""
        ...

    def withdraw(self, function_id: str) -> None:
        """A function that waits for resources needs none any more."""
        ...

    def forget(self, function_id: str) -> None:
        """A function has ended: it needs nothing, now or later."""
        ...

    async def clean_up(self, task: Task) -> None:
        """Gives everything back after a container's end (or failed start)."""
        ...

    def ready(self, task: Task) -> None:
        """A container asks for its first input."""
        ...

    def delivered(self, waited: float) -> None:
        """A container gets an input that waited so many seconds."""
        ...

    def blames_snapshot(self, task: Task, reason: str) -> bool:
        """Whether a container that ended before its first input did so because of a memory snapshot, so that the next may do better."""
        ...

    def say(self, task: Task, text: str) -> None:
        """Writes a line of the server's own to the log of the container's app."""
        ...

    def last_words(self, task: Task) -> str: ...
