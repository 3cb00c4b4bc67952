"""Who a container is to the server. Its socket says so: nothing of this is asked of the container itself."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

_MOST_TOLD = 20_000


class Told:
    """Ids that a container was told, the newest of them."""

    def __init__(self, most: int = _MOST_TOLD) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, object_id: str) -> None:
        self._ids[object_id] = None
        self._ids.move_to_end(object_id)
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)

    def __contains__(self, object_id: str) -> bool:
        return object_id in self._ids


@dataclass(frozen=True, eq=False)
class ContainerIdentity:
    """Set when a container starts, and the same until it ends, whatever is deployed meanwhile.

    restricted: of a function with restrict_modal_access=True. volume_ids: of the volumes that are mounted in it. told: the blobs and images
    that the server named to it, which are the only ones that it may name in turn."""

    task_id: str
    function_id: str
    app_id: str
    restricted: bool = False
    volume_ids: frozenset[str] = frozenset()
    told: Told = field(default_factory=Told)
