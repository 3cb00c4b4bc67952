"""Recorded traffic over HTTP: the interface behind `stoker simulate --from-server`."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stoker.errors import InvalidArgument
from stoker.services.watch.traffic import MOST, Traffic


class TrafficRoutes:
    def __init__(self, *, traffic: Traffic) -> None:
        self._traffic = traffic

    def routes(self) -> list[Route]:
        return [Route("/traffic", self.list, methods=["GET"])]

    async def list(self, request: Request) -> Response:
        """`hours`: how far to look back. `limited`: whether there may be more inputs in that time than those given, the newest."""
        try:
            hours = float(request.query_params.get("hours", "24"))
        except ValueError:
            raise InvalidArgument("`hours` must be a number.") from None
        now = time.time()
        records = await self._traffic.records(now - hours * 3600, now)
        return JSONResponse({"inputs": records, "limited": len(records) >= MOST})
