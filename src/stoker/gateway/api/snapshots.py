"""Memory snapshots over HTTP: the interface behind `stoker snapshots`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stoker.services.containers.snapshots import Snapshot, Snapshots

_LIST = "/snapshots"


@dataclass(frozen=True)
class SnapshotNames:
    """Whose a snapshot is, as people know it. parameters: of an instance of a class, such as "size=3"."""

    app: str
    function: str
    parameters: str


class SnapshotRoutes:
    """names: whose a snapshot is, by the ids of its app and function."""

    def __init__(self, *, snapshots: Snapshots, names: Callable[[str, str], SnapshotNames]) -> None:
        self._snapshots = snapshots
        self._names = names

    def routes(self) -> list[Route]:
        return [
            Route(_LIST, self.list, methods=["GET"]),
            Route(_LIST + "/{snapshot}", self.show, methods=["GET"]),
            Route(_LIST + "/{snapshot}", self.remove, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        return JSONResponse({"snapshots": [self._document(s) for s in self._snapshots.all()]})

    async def show(self, request: Request) -> Response:
        return JSONResponse(self._document(self._snapshots.get(request.path_params["snapshot"])))

    async def remove(self, request: Request) -> Response:
        snapshot = self._snapshots.get(request.path_params["snapshot"])
        self._snapshots.remove(snapshot.id)
        return JSONResponse(self._document(snapshot))

    def _document(self, snapshot: Snapshot) -> dict[str, Any]:
        names = self._names(snapshot.app_id, snapshot.function_id)
        return {
            "id": snapshot.id,
            "state": snapshot.state,
            "app": names.app,
            "app_id": snapshot.app_id,
            "function": names.function,
            "parameters": names.parameters,
            "function_id": snapshot.function_id,
            "key": snapshot.key,
            "size_bytes": snapshot.size,
            "created_at": snapshot.created_at,
            "used_at": snapshot.used_at,
            "hits": snapshot.hits,
            "failures": snapshot.all_failures,
            "failures_in_a_row": snapshot.failures,
            "restore_seconds": {
                "n": len(snapshot.restore_seconds),
                "p50": _quantile(snapshot.restore_seconds, 0.50),
                "p95": _quantile(snapshot.restore_seconds, 0.95),
            },
            "containers": sorted(snapshot.users),
            "reason": snapshot.reason,
        }


def _quantile(values: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of all do not exceed; None for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
