"""Images over HTTP: the builds that are under way, and what takes room on the disk; behind `stoker builds` and `stoker gc`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stoker.errors import InvalidArgument
from stoker.services.images.images import Images
from stoker.services.upkeep.image_storage import ImageStorage


class ImageRoutes:
    def __init__(self, *, images: Images, storage: ImageStorage) -> None:
        self._images = images
        self._storage = storage

    def routes(self) -> list[Route]:
        path = "/images/unused"
        return [
            Route(path, self.show, methods=["GET"]),
            Route(path, self.free, methods=["DELETE"]),
            Route("/builds", self.builds, methods=["GET"]),
            Route("/builds/{image}", self.cancel, methods=["DELETE"]),
        ]

    async def builds(self, request: Request) -> Response:
        return JSONResponse({"builds": builds_document(self._images)})

    async def cancel(self, request: Request) -> Response:
        image_id = request.path_params["image"]
        await self._images.cancel(image_id)
        return JSONResponse({"image": image_id})

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


def builds_document(images: Images) -> list[dict[str, Any]]:
    """Builds as JSON; times in seconds since the epoch."""
    return [
        {
            "image": build.image_id,
            "state": "building" if build.running else "waiting",
            "step": build.step,
            "asked_at": build.asked_at,
            "watched": build.watched,
            "by_container": build.by_container,
        }
        for build in images.builds()
    ]
