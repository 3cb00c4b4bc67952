"""Tokens over HTTP: the interface behind `stoker token`, and the page on which a request of `modal token new` is approved."""

from __future__ import annotations

import html
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from stoker.errors import FailedPrecondition, InvalidArgument, NotFound, StokerError, Unauthenticated
from stoker.gateway.api.guard import peer_of
from stoker.gateway.web.bodies import json_object, whole
from stoker.services.access.token_flows import Flow, TokenFlows
from stoker.services.access.tokens import Token, Tokens
from stoker.services.files.transfer import PREFIX

_PAGES = PREFIX + "/token-requests"
_LIST = "/tokens"
_MAX_BODY = 64 << 10
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def page_path(page: str) -> str:
    """The path of the page for one request."""
    return f"{_PAGES}/{page}"


class TokenRoutes:
    """The page is open to everybody and wants a token that works in its form."""

    def __init__(self, *, tokens: Tokens, flows: TokenFlows) -> None:
        self._tokens = tokens
        self._flows = flows

    def administration(self) -> list[Route]:
        return [
            Route(_LIST, self.list, methods=["GET"]),
            Route(_LIST, self.create, methods=["POST"]),
            Route(_LIST + "/approve", self.approve, methods=["POST"]),
            Route(_LIST + "/{token}/enable", self.enable, methods=["POST"]),
            Route(_LIST + "/{token}/disable", self.disable, methods=["POST"]),
            Route(_LIST + "/{token}", self.delete, methods=["DELETE"]),
        ]

    def pages(self) -> list[Route]:
        return [
            Route(_PAGES + "/{page}", self.show_page, methods=["GET"]),
            Route(_PAGES + "/{page}", self.submit_page, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        return JSONResponse({"tokens": [_document(t) for t in self._tokens.all()]})

    async def create(self, request: Request) -> Response:
        body = await json_object(request)
        name, lifetime = body.get("name", ""), body.get("lifetime_seconds")
        if not isinstance(name, str) or not isinstance(lifetime, (int, float, type(None))):
            raise InvalidArgument("A token is asked for by a `name` (text) and `lifetime_seconds` (a number or null).")
        token_id, secret = await self._tokens.create(name, lifetime)
        return JSONResponse(_document(self._tokens.find(token_id)) | {"secret": secret}, 201, _HEADERS)

    async def approve(self, request: Request) -> Response:
        body = await json_object(request)
        flow = self._flows.by_code(str(body.get("code", "")))
        token_id = await self._flows.approve(flow, _name(request.state.token))
        return JSONResponse(_document(self._tokens.find(token_id)), 201)

    async def enable(self, request: Request) -> Response:
        token = self._tokens.find(request.path_params["token"])
        await self._tokens.enable([token.id])
        return JSONResponse(_document(token))

    async def disable(self, request: Request) -> Response:
        token = self._tokens.find(request.path_params["token"])
        await self._tokens.disable([token.id])
        return JSONResponse(_document(token))

    async def delete(self, request: Request) -> Response:
        token = self._tokens.find(request.path_params["token"])
        await self._tokens.delete(token.id)
        return JSONResponse(_document(token))

    async def show_page(self, request: Request) -> Response:
        try:
            flow = self._flows.by_page(request.path_params["page"])
        except NotFound as error:
            return _page(f"<p>{html.escape(str(error))}</p>", 404)
        return _form_page(flow)

    async def submit_page(self, request: Request) -> Response:
        try:
            flow = self._flows.by_page(request.path_params["page"])
        except NotFound as error:
            return _page(f"<p>{html.escape(str(error))}</p>", 404)
        try:
            fields = await _form(request)
            shown = fields.get("token_id", ""), fields.get("token_secret", "")
            approver = self._tokens.authenticate(*shown, peer_of(request))
            if self._flows.by_code(fields.get("code", "")) is not flow:
                raise NotFound("The code belongs to another request. Compare it with what the terminal shows.")
            token_id = await self._flows.approve(flow, _name(approver))
        except StokerError as error:
            status = (
                401 if isinstance(error, Unauthenticated) else 409 if isinstance(error, FailedPrecondition) else 400
            )
            return _form_page(flow, str(error), status)
        return _page(
            f"<p>Done. The terminal has its token now, <code>{html.escape(token_id)}</code>. You may close this page.</p>"
            f"<p><code>stoker token disable {html.escape(token_id)}</code> takes it back.</p>"
        )


def _document(token: Token) -> dict[str, Any]:
    return {key: value for key, value in vars(token).items() if key != "secret_sha256"}


def _name(approver: Token) -> str:
    return f"approved by {approver.name or approver.id}"[:64]


async def _form(request: Request) -> dict[str, str]:
    """The fields of a posted form."""
    text = (await whole(request, _MAX_BODY)).decode("utf-8", "replace")
    try:
        return {name: value.strip() for name, value in parse_qsl(text, max_num_fields=10)}
    except ValueError as error:
        raise InvalidArgument(f"This is no form of ours: {error}.") from None


def _form_page(flow: Flow, problem: str = "", status: int = 200) -> Response:
    if flow.is_claimed:
        return _page("<p>This request was approved already.</p>", status)
    warning = f'<p class="problem">{html.escape(problem)}</p>' if problem else ""
    return _page(
        f"""{warning}
<p>A program asks for a token for this server, with which it can do everything that you can: run code, read secrets' names, delete
volumes. <b>Approve only what you started yourself</b>, with <code>modal token new</code>.</p>
<form method="post">
<label>The code that the terminal shows
<input name="code" required autocomplete="off" spellcheck="false" placeholder="XXXX-XXXX"></label>
<label>The id of a token that works (<code>stoker env</code> on the server's machine shows one)
<input name="token_id" required autocomplete="username" spellcheck="false" placeholder="ak-..."></label>
<label>Its secret
<input name="token_secret" type="password" required autocomplete="current-password" placeholder="as-..."></label>
<button>Approve</button>
</form>
<p>Or on the server's machine: <code>stoker token approve CODE</code></p>""",
        status,
    )


def _page(body: str, status: int = 200) -> Response:
    return HTMLResponse(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stoker: a new token</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 36rem; margin: 10vh auto; padding: 0 1rem; color: #222; background: #fff }}
label {{ display: block; margin: 1rem 0 }}
input {{ display: block; width: 100%; box-sizing: border-box; font: inherit; padding: .5rem; border: 1px solid #888; border-radius: 4px }}
button {{ font: inherit; padding: .5rem 1.5rem; border: 0; border-radius: 4px; background: #b3400f; color: #fff }}
.problem {{ border-left: 4px solid #b3400f; padding-left: 1rem }}
</style></head>
<body><h1>A new token</h1>
{body}
</body></html>
""",
        status,
        _HEADERS,
    )
