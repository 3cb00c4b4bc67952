"""Who may call: tokens, of which only a hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

import sqlalchemy as sa

from stoker.errors import Unauthenticated
from stoker.ids import new_id
from stoker.store import tables
from stoker.store.database import Database

_HELP = (
    "Run `stoker env` on the server's machine for a token that works, or check MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
)


@dataclass
class _Token:
    secret_sha256: str
    enabled: bool


class Tokens:
    """All tokens, cached: each request of a client is checked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.read() as connection:
            rows = connection.execute(sa.select(tables.tokens)).all()
        self._tokens = {row.id: _Token(row.secret_sha256, row.enabled) for row in rows}

    def authenticate(self, token_id: str, token_secret: str) -> None:
        """Raises Unauthenticated unless the token is known, enabled and its secret right."""
        if not token_id:
            raise Unauthenticated(f"No token was sent. {_HELP}")
        token = self._tokens.get(token_id)
        # The hash is compared even for an unknown id, so that timing tells nothing about which ids exist.
        matches = hmac.compare_digest(_hash(token_secret), token.secret_sha256 if token else _hash(""))
        if token is None or not matches:
            raise Unauthenticated(
                f"The token {token_id!r} is not known to this server, or its secret is wrong. {_HELP}"
            )
        if not token.enabled:
            raise Unauthenticated(f"The token {token_id!r} is disabled.")

    def exist(self) -> bool:
        return bool(self._tokens)

    async def create(self, name: str = "") -> tuple[str, str]:
        """A new token as (id, secret). The secret cannot be read again."""
        token_id, secret = new_id("ak"), "as-" + secrets.token_urlsafe(24)
        row = {
            "id": token_id,
            "name": name,
            "secret_sha256": _hash(secret),
            "enabled": True,
            "created_at": time.time(),
            "last_used_at": None,
        }
        await self._database.insert(tables.tokens, [row])
        self._tokens[token_id] = _Token(row["secret_sha256"], True)  # type: ignore[arg-type]
        return token_id, secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
