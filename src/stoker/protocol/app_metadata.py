"""What clients are told of an app as a whole: its lifecycle, its functions and its servers. One answer, whichever RPC asks."""

from __future__ import annotations

from typing import Any

from modal_proto import api_pb2

from stoker.services.apps import apps as states
from stoker.services.apps.apps import App
from stoker.services.apps.deployments import Deployments
from stoker.services.environments.environments import Environments
from stoker.services.functions.functions import Functions

STATES = {
    api_pb2.APP_STATE_EPHEMERAL: states.EPHEMERAL,
    api_pb2.APP_STATE_DETACHED: states.DETACHED,
    api_pb2.APP_STATE_DEPLOYED: states.DEPLOYED,
    api_pb2.APP_STATE_STOPPING: states.STOPPING,
    api_pb2.APP_STATE_STOPPED: states.STOPPED,
    api_pb2.APP_STATE_INITIALIZING: states.INITIALIZING,
    api_pb2.APP_STATE_DETACHED_DISCONNECTED: states.DETACHED_DISCONNECTED,
}
WIRE_STATES = {state: number for number, state in STATES.items()}


class AppMetadata:
    def __init__(
        self, *, deployments: Deployments, functions: Functions, environments: Environments, user: str
    ) -> None:
        """user: the name of everybody who has a token."""
        self._deployments = deployments
        self._functions = functions
        self._environments = environments
        self.user = user

    def lifecycle(self, app: App) -> Any:
        """AppLifecycle. Times of what did not happen are 0."""
        newest = self._deployments.current(app.id)
        return api_pb2.AppLifecycle(
            app_state=WIRE_STATES[app.state],
            created_at=app.created_at,
            created_by=self.user,
            deployed_at=newest.deployed_at if newest else 0.0,
            deployed_by=self.user if newest else "",
            version=newest.version if newest else 0,
            stopped_at=app.stopped_at or 0.0,
            stopped_by=app.stopped_by if app.stopped_at else "",
        )

    def handle(self, app: App, *, members: bool = True) -> Any:
        """AppHandleMetadata. members: with the ids of its functions and servers, by name."""
        handle = api_pb2.AppHandleMetadata(
            app_id=app.id,
            description=app.description or app.name,
            environment_name=self._environments.get(app.environment_id).name,
            lifecycle=self.lifecycle(app),
        )
        for name, function_id in app.function_ids.items() if members else ():
            definition = self._functions.get(function_id).latest
            is_server = definition is not None and definition.spec.server is not None
            (handle.servers if is_server else handle.functions)[name] = function_id
        return handle
