"""New tokens for people who have none yet: a client asks, somebody with a token approves, the client gets a token of its own.

Anybody may ask, so requests are few, short-lived and kept in memory. What approves one is the code that the client shows, together with a
token that works; the client proves that it is the one that asked by a secret that only it was told.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from dataclasses import dataclass, field

from stoker.aio.waiting import settled
from stoker.errors import FailedPrecondition, NotFound, PermissionDenied, ResourceExhausted
from stoker.ids import new_id
from stoker.services.access.tokens import Tokens

LIFETIME = 600.0  # seconds in which a request must be approved
_MOST_OPEN = 64
_MOST_PER_MINUTE = 20
_KEEP_APPROVED = 120.0  # seconds for which the client can fetch its token
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # none that are taken for each other, no vowels that make words


@dataclass
class Flow:
    """One request. id and wait_secret: for the client that asked alone; page: names it in URLs; code: what people type."""

    id: str
    wait_secret: str = field(repr=False)
    page: str
    code: str
    token_lifetime: float | None
    ends_at: float
    token: asyncio.Future[tuple[str, str]] = field(repr=False)
    is_claimed: bool = False  # somebody approves it


class TokenFlows:
    """The open requests for a token, in memory. Made by the composition root; asked by the RPCs of `modal token new` and by the page on which
    people approve."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._flows: dict[str, Flow] = {}
        self._asked: list[float] = []

    def begin(self, token_lifetime: float | None) -> Flow:
        """A new request. Raises ResourceExhausted when there are too many."""
        now = time.monotonic()
        self._forget_old(now)
        self._asked = [t for t in self._asked if t > now - 60]
        if len(self._flows) >= _MOST_OPEN or len(self._asked) >= _MOST_PER_MINUTE:
            raise ResourceExhausted(
                "Too many requests for a token are open. Try again in a minute, or let an administrator run `stoker token new`.",
                0.0,
            )
        self._asked.append(now)
        code = "".join(secrets.choice(_LETTERS) for _ in range(8))
        flow = Flow(
            id=new_id("tf"),
            wait_secret=secrets.token_urlsafe(24),
            page=secrets.token_urlsafe(12),
            code=f"{code[:4]}-{code[4:]}",
            token_lifetime=token_lifetime,
            ends_at=now + LIFETIME,
            token=asyncio.get_running_loop().create_future(),
        )
        self._flows[flow.id] = flow
        return flow

    def by_page(self, page: str) -> Flow:
        """Raises NotFound."""
        self._forget_old(time.monotonic())
        for flow in self._flows.values():
            if hmac.compare_digest(flow.page.encode(), page.encode()):
                return flow
        raise _gone()

    def by_code(self, code: str) -> Flow:
        """The request whose code that is; case, spaces and dashes do not matter. Raises NotFound."""
        self._forget_old(time.monotonic())
        for flow in self._flows.values():
            if hmac.compare_digest(_plain(flow.code), _plain(code)):
                return flow
        raise NotFound(
            f"No open request for a token has the code {code!r}. Codes are good for {LIFETIME / 60:.0f} minutes."
        )

    async def approve(self, flow: Flow, name: str) -> str:
        """Makes a token of that name for the client that asked; its id. The caller has shown a token that works.

        Raises FailedPrecondition for a request that was approved already."""
        if flow.is_claimed:
            raise FailedPrecondition("This request was approved already. Ask for another with `modal token new`.")
        flow.is_claimed = True
        try:
            token = await self._tokens.create(name, flow.token_lifetime)
        except BaseException:
            flow.is_claimed = False
            raise
        flow.token.set_result(token)
        flow.ends_at = time.monotonic() + _KEEP_APPROVED
        return token[0]

    async def wait(self, flow_id: str, wait_secret: str, timeout: float) -> tuple[str, str] | None:
        """The token (id, secret) once the request is approved; None when it is not within `timeout` seconds.

        Raises NotFound for a request that is over, PermissionDenied for a wrong secret."""
        self._forget_old(time.monotonic())
        flow = self._flows.get(flow_id)
        if flow is None:
            raise _gone()
        if not hmac.compare_digest(flow.wait_secret.encode(), wait_secret.encode()):
            raise PermissionDenied("Only the client that asked for this token may wait for it.")
        await settled(flow.token, min(timeout, flow.ends_at - time.monotonic()))
        if flow.token.done():
            return flow.token.result()
        if time.monotonic() >= flow.ends_at:
            raise _gone()
        return None

    def _forget_old(self, now: float) -> None:
        for flow in [f for f in self._flows.values() if f.ends_at <= now]:
            del self._flows[flow.id]


def _plain(code: str) -> bytes:
    return "".join(c for c in code.upper() if c.isalnum()).encode()


def _gone() -> NotFound:
    return NotFound(
        f"This request for a token is over: it must be approved within {LIFETIME / 60:.0f} minutes. "
        "Ask again with `modal token new`."
    )
