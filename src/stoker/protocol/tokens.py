"""RPCs of API tokens and proxy tokens. Code in containers may see none of them."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from stoker.rpc.methods import Caller, rpc
from stoker.services.access.proxy_tokens import ProxyToken, ProxyTokens
from stoker.services.access.token_flows import TokenFlows
from stoker.services.access.tokens import Token, Tokens
from stoker.services.environments.environments import Environments

_LONGEST_WAIT = 55.0  # seconds; the client asks again


class TokenServicer:
    def __init__(
        self,
        *,
        workspace: str,
        tokens: Tokens,
        flows: TokenFlows,
        proxy_tokens: ProxyTokens,
        environments: Environments,
        page_url: Callable[[str], str],
    ) -> None:
        """page_url: the URL of the page on which a request for a token (by its `page`) is approved."""
        self._workspace = workspace
        self._tokens = tokens
        self._flows = flows
        self._proxy_tokens = proxy_tokens
        self._environments = environments
        self._page_url = page_url

    @rpc("TokenInfoGet")
    async def info(self, request: api_pb2.TokenInfoGetRequest, caller: Caller) -> api_pb2.TokenInfoGetResponse:
        response = api_pb2.TokenInfoGetResponse(workspace_id=self._workspace, workspace_name=self._workspace)
        response.user_identity.username = response.user_identity.user_id = self._workspace
        token = self._tokens.find(caller.token_id)
        response.token_id, response.token_name = token.id, token.name
        response.created_at.FromMilliseconds(int(token.created_at * 1000))
        if token.expires_at is not None:
            response.expires_at.FromMilliseconds(int(token.expires_at * 1000))
        return response

    @rpc("TokensList")
    async def list(self, request: Empty, caller: Caller) -> api_pb2.TokensListResponse:
        return api_pb2.TokensListResponse(tokens=[self._item(t) for t in self._tokens.all()])

    @rpc("TokenEnable")
    async def enable(self, request: api_pb2.TokenEnableRequest, caller: Caller) -> Empty:
        await self._tokens.enable(list(request.token_ids))
        return Empty()

    @rpc("TokenDisable")
    async def disable(self, request: api_pb2.TokenDisableRequest, caller: Caller) -> Empty:
        await self._tokens.disable(list(request.token_ids))
        return Empty()

    @rpc("TokenDelete", once=True)
    async def delete(self, request: api_pb2.TokenDeleteRequest, caller: Caller) -> Empty:
        await self._tokens.delete(request.token_id)
        return Empty()

    @rpc("TokenFlowCreate", open=True)
    async def begin_flow(
        self, request: api_pb2.TokenFlowCreateRequest, caller: Caller
    ) -> api_pb2.TokenFlowCreateResponse:
        flow = self._flows.begin(float(request.expires_in_seconds) or None)
        return api_pb2.TokenFlowCreateResponse(
            token_flow_id=flow.id, web_url=self._page_url(flow.page), code=flow.code, wait_secret=flow.wait_secret
        )

    @rpc("TokenFlowWait", open=True, waits=True)
    async def wait_flow(self, request: api_pb2.TokenFlowWaitRequest, caller: Caller) -> api_pb2.TokenFlowWaitResponse:
        timeout = min(request.timeout, _LONGEST_WAIT)
        token = await self._flows.wait(request.token_flow_id, request.wait_secret, timeout)
        if token is None:
            return api_pb2.TokenFlowWaitResponse(timeout=True)
        return api_pb2.TokenFlowWaitResponse(
            token_id=token[0], token_secret=token[1], workspace_username=self._workspace
        )

    @rpc("WebhookTokenCreate", once=True)
    async def create_proxy_token(
        self, request: api_pb2.WebhookTokenCreateRequest, caller: Caller
    ) -> api_pb2.TokenCreateResponse:
        token_id, secret = await self._proxy_tokens.create(
            request.name, scoped=request.scoped, created_by=self._workspace
        )
        return api_pb2.TokenCreateResponse(token_id=token_id, token_secret=secret)

    @rpc("WebhookTokenUpdate")
    async def update_proxy_token(
        self, request: api_pb2.WebhookTokenUpdateRequest, caller: Caller
    ) -> api_pb2.WebhookToken:
        if not request.HasField("name"):
            return _proxy_item(self._proxy_tokens.get(request.token_id))
        return _proxy_item(await self._proxy_tokens.rename(request.token_id, request.name))

    @rpc("WebhookTokenDelete", once=True)
    async def delete_proxy_token(self, request: api_pb2.TokenDeleteRequest, caller: Caller) -> Empty:
        await self._proxy_tokens.delete(request.token_id)
        return Empty()

    @rpc("WebhookTokenList")
    async def list_proxy_tokens(self, request: Empty, caller: Caller) -> api_pb2.WebhookTokenListResponse:
        return api_pb2.WebhookTokenListResponse(tokens=[_proxy_item(t) for t in self._proxy_tokens.all()])

    @rpc("WebhookTokenListForEnvironment")
    async def list_proxy_tokens_of(
        self, request: api_pb2.WebhookTokenListForEnvironmentRequest, caller: Caller
    ) -> api_pb2.WebhookTokenListResponse:
        environment = self._environments.resolve(request.environment_name)
        tokens = self._proxy_tokens.all(environment.id)
        return api_pb2.WebhookTokenListResponse(tokens=[_proxy_item(t) for t in tokens])

    @rpc("WebhookTokenEnvironmentAdd")
    async def allow_proxy_token(self, request: api_pb2.WebhookTokenEnvironmentAddRequest, caller: Caller) -> Empty:
        await self._proxy_tokens.allow(request.token_id, request.environment_id)
        return Empty()

    @rpc("WebhookTokenEnvironmentRemove")
    async def revoke_proxy_token(self, request: api_pb2.WebhookTokenEnvironmentRemoveRequest, caller: Caller) -> Empty:
        await self._proxy_tokens.revoke(request.token_id, request.environment_id)
        return Empty()

    @rpc("WebhookTokenEnvironmentList")
    async def list_environments_of_proxy_token(
        self, request: api_pb2.WebhookTokenEnvironmentListRequest, caller: Caller
    ) -> api_pb2.WebhookTokenEnvironmentListResponse:
        token = self._proxy_tokens.get(request.token_id)
        ids = [e.id for e in self._environments.all() if token.is_good_for(e.id)]
        return api_pb2.WebhookTokenEnvironmentListResponse(environment_ids=ids)

    def _item(self, token: Token) -> api_pb2.TokensListResponse.Token:
        item = api_pb2.TokensListResponse.Token(
            token_id=token.id,
            created_at=token.created_at,
            workspace_id=self._workspace,
            user_id=self._workspace,
            last_used_at=token.last_used_at or 0.0,
            member_displayname=self._workspace,
            member_id=self._workspace,
            name=token.name,
            disabled=not token.enabled,
        )
        if token.expires_at is not None:
            item.expires_at = token.expires_at
        return item


def _proxy_item(token: ProxyToken) -> api_pb2.WebhookToken:
    return api_pb2.WebhookToken(
        token_id=token.id,
        created_at=token.created_at,
        scoped=token.scoped,
        name=token.name,
        created_by=api_pb2.UserIdentity(user_id=token.created_by, username=token.created_by),
    )
