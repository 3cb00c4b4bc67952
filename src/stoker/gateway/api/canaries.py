"""Canaries over HTTP: the interface behind `stoker canary`. Apps are named, within an environment."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stoker.errors import InvalidArgument, NotFound
from stoker.gateway.web.bodies import json_object
from stoker.services.apps.apps import App, Apps
from stoker.services.apps.canaries import Canaries, Canary
from stoker.services.environments.environments import Environments

_PATH = "/canaries/{app}"


class CanaryRoutes:
    def __init__(self, *, canaries: Canaries, apps: Apps, environments: Environments) -> None:
        self._canaries = canaries
        self._apps = apps
        self._environments = environments

    def routes(self) -> list[Route]:
        return [
            Route(_PATH, self.show, methods=["GET"]),
            Route(_PATH, self.start, methods=["PUT"]),
            Route(_PATH, self.stop, methods=["DELETE"]),
            Route(_PATH + "/promote", self.promote, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        app = self._app(request)
        canary = self._canaries.get(app.id)
        return JSONResponse({"app": app.name, "canary": _document(canary) if canary else None})

    async def start(self, request: Request) -> Response:
        app = self._app(request)
        try:
            wanted = await json_object(request)
            version, percent = int(wanted["version"]), float(wanted["percent"])
        except (ValueError, KeyError, TypeError, OverflowError):
            raise InvalidArgument('The body must be {"version": N, "percent": P}.') from None
        canary = await self._canaries.start(app.id, version, percent)
        return JSONResponse({"app": app.name, "canary": _document(canary)})

    async def stop(self, request: Request) -> Response:
        app = self._app(request)
        return JSONResponse({"app": app.name, "canary": _document(await self._canaries.stop(app.id))})

    async def promote(self, request: Request) -> Response:
        app = self._app(request)
        canary, _ = await self._canaries.promote(app.id)
        return JSONResponse({"app": app.name, "canary": _document(canary)})

    def _app(self, request: Request) -> App:
        environment = self._environments.resolve(request.query_params.get("environment", ""))
        name = request.path_params["app"]
        app = self._apps.by_name(environment.id, name)
        if app is None:
            raise NotFound(f"There is no deployed app {name!r} in the environment {environment.name!r}.")
        return app


def _document(canary: Canary) -> dict[str, Any]:
    return {"version": canary.version, "percent": canary.percent, "stable_version": canary.stable}
