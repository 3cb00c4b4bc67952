"""What images take of the disk, over HTTP: the interface behind `stoker gc`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stoker.errors import InvalidArgument
from stoker.services.image_storage import ImageStorage


class ImageRoutes:
    def __init__(self, *, storage: ImageStorage) -> None:
        self._storage = storage

    def routes(self) -> list[Route]:
        path = "/images/unused"
        return [Route(path, self.show, methods=["GET"]), Route(path, self.free, methods=["DELETE"])]

    async def show(self, request: Request) -> Response:
        """What would go. `days`: what was not used for so long."""
        return JSONResponse(await self._collect(request, dry_run=True))

    async def free(self, request: Request) -> Response:
        return JSONResponse(await self._collect(request, dry_run=False))

    async def _collect(self, request: Request, *, dry_run: bool) -> list[dict[str, Any]]:
        try:
            days = float(request.query_params.get("days", "30"))
        except ValueError:
            days = math.nan
        if not 0 <= days < math.inf:
            raise InvalidArgument("`days` must be a number from 0 on.")
        return [asdict(item) for item in await self._storage.free(days * 86_400, dry_run=dry_run)]
