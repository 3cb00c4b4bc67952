"""What the log of an app says of a function that cannot go on: each thing once, as long as it lasts."""

from __future__ import annotations

import math
from collections.abc import Callable

from stoker.core.pool import Pool
from stoker.engine.base import NotNow
from stoker.services.containers.task import Task

_STUCK_FOR = 10.0  # seconds


class Notices:
    """Of one function. Made by its runner, which says what is the case; a repeat of the same is not said again."""

    def __init__(self, say: Callable[[Task, str], None]) -> None:
        self._say = say
        self._reason = ""
        self._stuck_since: float | None = None

    def not_placed(self, why: NotNow, task: Task) -> None:
        if why.reason != self._reason:
            self._say(task, f"Waiting for resources: {why.reason}.\n")
        self._reason = why.reason

    def placed(self) -> None:
        self._reason = ""

    def stuck(self, now: float, stuck: bool, pool: Pool, task: Task | None) -> None:
        """stuck: see `Decision`. Whether the calls can end at all depends on what they wait for, so nothing is ended for it."""
        if not stuck or task is None:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since >= _STUCK_FOR:
            self._stuck_since = math.inf
            self._say(
                task,
                f"Inputs wait for a container ({len(pool.waiting)}), and all that max_containers allows ({len(pool.containers)}) wait "
                "for the results of other calls. If those calls wait for this function, they end only by their time limits: "
                "set a higher max_containers.\n",
            )
