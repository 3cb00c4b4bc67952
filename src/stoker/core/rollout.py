"""Replacing the containers of a function that is in use: those of the last definition serve until one of the new is up. Pure."""

from __future__ import annotations

from stoker.core.books import ContainerState
from stoker.core.pool import Pool

_LATELY = 1.0  # seconds; who calls again and again counts as using a function also between two calls


class Rollout:
    def __init__(self) -> None:
        self._old: list[str] = []  # containers that serve until they are replaced

    @property
    def under_way(self) -> bool:
        return bool(self._old)

    def begin(self, now: float, pool: Pool, definition_id: str) -> list[str]:
        """There is a new definition; the containers that must go now. Those that are ready may stay when the function is in use."""
        for container in pool.containers.values():
            container.outdated = container.definition_id != definition_id
        old = [c for c in pool.containers.values() if c.outdated and c.state is not ContainerState.DRAINING]
        ready = [c for c in old if c.state is ContainerState.READY]
        in_use = bool(pool.inputs) or any(c.served and now - c.idle_since < _LATELY for c in ready)
        self._old = [c.id for c in ready] if in_use else []
        return [c.id for c in old if c.id not in self._old]

    def starts(self, pool: Pool, definition_id: str, wanted: int) -> int:
        """How many containers to start when the autoscaler wants so many more: at least the one that replaces the others."""
        self._old = [i for i in self._old if i in pool.containers]
        replaced = any(c.definition_id == definition_id for c in pool.containers.values())
        return wanted if not self._old or replaced else max(wanted, 1)

    def end(self) -> list[str]:
        """A new container is up, or there is no room for one beside the old; the containers that must go."""
        gone, self._old = self._old, []
        return gone
