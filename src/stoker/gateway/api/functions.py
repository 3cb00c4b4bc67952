"""Deployed functions over HTTP: their settings and the traffic they had, the interface behind `stoker tune`."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stoker.errors import InvalidArgument, NotFound
from stoker.services.apps.apps import Apps
from stoker.services.environments.environments import Environments
from stoker.services.functions.functions import Functions
from stoker.services.functions.spec import Function
from stoker.services.watch.history import History

_MOST = 100_000  # inputs of one answer; the newest count
_SPAN = 7 * 86_400.0  # seconds, when none is asked for: results are kept that long


class FunctionRoutes:
    def __init__(
        self,
        *,
        apps: Apps,
        functions: Functions,
        environments: Environments,
        history: History,
    ) -> None:
        self._apps = apps
        self._functions = functions
        self._environments = environments
        self._history = history

    def routes(self) -> list[Route]:
        return [Route("/functions/{app}/{function}", self.show, methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """A method of a class stands for the class, whose containers serve all its methods."""
        function = self._find(
            request.query_params.get("environment", ""), request.path_params["app"], request.path_params["function"]
        )
        until = time.time()
        since = until - _seconds(request)
        ids = [function.id, *self._alike(function)]
        records = await self._history.between(ids, since, until, _MOST)
        totals = await self._history.totals(ids, since, until)
        # Arrival, and seconds in the container, of what was run to its end there.
        inputs = [
            [record.enqueued_at, record.finished_at - record.started_at]
            for record in records
            if record.started_at is not None and record.finished_at is not None
        ]
        return JSONResponse(
            {
                "function_id": function.id,
                "settings": _settings(function),
                "since": since,
                "until": until,
                "inputs": inputs,
                "start_seconds": {f"p{share * 100:g}": value for share, value in totals.start_times.items()},
                "statuses": dict(totals.statuses),
            }
        )

    def _alike(self, function: Function) -> list[str]:
        """The same class with other parameters, but not with other options: that is somebody's experiment."""
        spec = function.active.spec
        return [id for id in self._history.variants(function.id) if self._functions.get(id).active.spec == spec]

    def _find(self, environment: str, app_name: str, name: str) -> Function:
        app = self._apps.by_name(self._environments.resolve(environment).id, app_name)
        if app is None:
            raise NotFound(
                f"No app {app_name!r} is deployed here. `modal app list` shows what is; `modal deploy` deploys."
            )
        function_id = app.function_ids.get(name) or app.function_ids.get(f"{name.partition('.')[0]}.*")
        if function_id is None:
            known = ", ".join(sorted(app.function_ids)) or "none"
            raise NotFound(f"The app {app_name!r} has no function {name!r}. It has: {known}.")
        return self._functions.get(function_id)


def _settings(function: Function) -> dict[str, Any]:
    pool, scaling, resources = function.active.spec.pool, function.scaling, function.active.spec.resources
    return {
        "max_inputs": pool.max_concurrent_inputs,
        "target_inputs": scaling.target_inputs / pool.batch_max_size,
        "max_batch_size": pool.batch_max_size,
        "wait_ms": round(pool.batch_linger * 1000),
        "min_containers": scaling.min_containers,
        "max_containers": scaling.max_containers,
        "buffer_containers": scaling.buffer_containers,
        "scaledown_window": scaling.scaledown_window,
        "timeout": pool.timeout,
        "cpu": resources.cpu_milli / 1000,
        "memory_mib": resources.memory_mib,
        "gpu": bool(resources.gpus),
        "memory_snapshot": function.active.spec.memory_snapshot,
    }


def _seconds(request: Request) -> float:
    text = request.query_params.get("seconds", str(_SPAN))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise InvalidArgument(f"seconds={text} is no span of time.")
    return seconds
