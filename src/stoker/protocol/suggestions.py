"""Names that a mistyped one may have meant."""

from __future__ import annotations

import difflib

from modal_proto import api_pb2

from stoker.protocol import scopes
from stoker.rpc.methods import Caller, rpc
from stoker.services.apps.apps import DEPLOYED, Apps
from stoker.services.environments.environments import Environments
from stoker.services.functions.functions import Functions

_LIKE_ENOUGH = 0.5
_LONGEST = 300  # characters; no name is as long
_MOST = 20
_KIND = api_pb2.ObjectSuggestRequest


class SuggestionServicer:
    def __init__(self, *, apps: Apps, functions: Functions, environments: Environments) -> None:
        self._apps = apps
        self._functions = functions
        self._environments = environments

    @rpc("ObjectSuggest", containers=scopes.OWN_ENVIRONMENT)
    async def objects(self, request: api_pb2.ObjectSuggestRequest, caller: Caller) -> api_pb2.ObjectSuggestResponse:
        environment = self._environments.resolve(request.environment_name)
        apps = [a for a in self._apps.all(environment.id) if a.state == DEPLOYED]
        response = api_pb2.ObjectSuggestResponse()
        if request.kind == _KIND.OBJECT_SUGGEST_KIND_APP:
            names = {a.name: ("", a.name) for a in apps}
        else:
            servers = request.kind == _KIND.OBJECT_SUGGEST_KIND_SERVER
            names = {
                f"{a.name}/{name}": (a.name, name)
                for a in apps
                for name, function_id in a.function_ids.items()
                if (self._functions.get(function_id).active.spec.server is not None) == servers
            }
        if len(request.query) > _LONGEST:
            return response
        limit = min(max(request.limit, 0) or 4, _MOST)
        for found in difflib.get_close_matches(request.query, names, n=limit, cutoff=_LIKE_ENOUGH):
            app_name, object_name = names[found]
            response.suggestions.add(app_name=app_name, object_name=object_name)
        return response
