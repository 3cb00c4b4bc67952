"""Names that a mistyped one may have meant."""

from __future__ import annotations

import difflib

from modal_proto import api_pb2

from stoker.protocol.rpc import Caller, rpc
from stoker.services.apps import DEPLOYED, Apps
from stoker.services.environments import Environments

_LIKE_ENOUGH = 0.5
_KIND = api_pb2.ObjectSuggestRequest


class SuggestionServicer:
    def __init__(self, *, apps: Apps, environments: Environments) -> None:
        self._apps = apps
        self._environments = environments

    @rpc("ObjectSuggest")
    async def objects(self, request: api_pb2.ObjectSuggestRequest, caller: Caller) -> api_pb2.ObjectSuggestResponse:
        environment = self._environments.resolve(request.environment_name)
        apps = [a for a in self._apps.all(environment.id) if a.state == DEPLOYED]
        response = api_pb2.ObjectSuggestResponse()
        if request.kind == _KIND.OBJECT_SUGGEST_KIND_APP:
            names = {a.name: ("", a.name) for a in apps}
        else:
            names = {f"{a.name}/{f}": (a.name, f) for a in apps for f in a.function_ids}
        for found in difflib.get_close_matches(request.query, names, n=request.limit or 4, cutoff=_LIKE_ENOUGH):
            app_name, object_name = names[found]
            response.suggestions.add(app_name=app_name, object_name=object_name)
        return response
