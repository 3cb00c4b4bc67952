"""What a container can read in its environment of where it runs, and of who it is."""

from __future__ import annotations

from stoker.services.apps.apps import Apps
from stoker.services.containers.identity_tokens import IdentityTokens
from stoker.services.environments.environments import Environments
from stoker.services.functions.spec import Function


class Surroundings:
    """Gives the `MODAL_...` variables of containers. Made by the composition root; asked by the launcher."""

    def __init__(
        self,
        *,
        apps: Apps,
        environments: Environments,
        tokens: IdentityTokens,
        workspace: str,
        region: str,
        cloud_provider: str,
    ) -> None:
        """cloud_provider: "aws" and the like, "" for a machine of one's own."""
        self._apps = apps
        self._environments = environments
        self._tokens = tokens
        self._workspace = workspace
        self._place = {
            "MODAL_REGION": region,
            "MODAL_CLOUD_PROVIDER": f"CLOUD_PROVIDER_{(cloud_provider or 'unspecified').upper()}",
        }

    def environment_of(self, app_id: str) -> str:
        """The name of the environment of an app."""
        return self._environments.get(self._apps.get(app_id).environment_id).name

    def variables(self, function: Function, task_id: str) -> dict[str, str]:
        """The environment variables of a container. One that can ask the server for nothing can prove nothing to others either."""
        if function.active.spec.restricted:
            return self._place
        app = self._apps.get(function.app_id)
        environment = self._environments.get(app.environment_id)
        claims = {
            "workspace_id": self._workspace,
            "environment_id": environment.id,
            "environment_name": environment.name,
            "app_id": app.id,
            "app_name": app.name or app.description,
            "function_id": function.id,
            "function_name": function.name,
            "container_id": task_id,
        }
        return self._place | {"MODAL_IDENTITY_TOKEN": self._tokens.issue(claims)}
