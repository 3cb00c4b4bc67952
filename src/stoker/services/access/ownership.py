"""To which environment and app things belong: what the checks of containers' requests look up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from stoker.services.apps.apps import Apps
from stoker.services.calls.call_records import Call
from stoker.services.calls.calls import Calls
from stoker.services.containers.identity import ContainerIdentity
from stoker.services.environments.environments import Environments
from stoker.services.functions.functions import Functions


class Ownership:
    """Each method raises NotFound for what does not exist."""

    def __init__(
        self,
        *,
        environments: Environments,
        apps: Apps,
        functions: Functions,
        calls: Calls,
        objects: Mapping[str, Callable[[str], str]],
    ) -> None:
        """objects: gives the id of the environment of an object by the object's id, for each field of requests that names one."""
        self._environments = environments
        self._apps = apps
        self._functions = functions
        self._calls = calls
        self._objects = objects

    def home(self, container: ContainerIdentity) -> str:
        """The id of the environment in which a container runs."""
        return self._apps.get(container.app_id).environment_id

    def home_name(self, container: ContainerIdentity) -> str:
        return self._environments.get(self.home(container)).name

    def environment(self, name: str) -> str:
        """The id of the environment of that name."""
        return self._environments.resolve(name).id

    def has_environment(self, name: str) -> bool:
        return any(environment.name == name for environment in self._environments.all())

    def environment_of(self, field: str, object_id: str) -> str:
        """The id of the environment of what a request names in the field `field`."""
        return self._objects[field](object_id)

    def app_of_function(self, function_id: str) -> str:
        return self._functions.get(function_id).app_id

    def environment_of_app(self, app_id: str) -> str:
        return self._apps.get(app_id).environment_id

    def call(self, call_id: str) -> Call:
        return self._calls.get(call_id)

    def runs(self, container: ContainerIdentity, input_ids: Iterable[str]) -> bool:
        """Whether any of these inputs is under way in a container."""
        return not self._calls.running(container.task_id).isdisjoint(input_ids)
