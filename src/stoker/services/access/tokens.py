"""Who may call: tokens, of which only a hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from stoker.aio.jobs import Jobs
from stoker.errors import FailedPrecondition, InvalidArgument, NotFound, Unauthenticated
from stoker.ids import is_id, new_id
from stoker.services.access.attempts import DISABLED, EXPIRED, INSIDE, MISSING, UNKNOWN, WRONG, Attempts, Peer
from stoker.store import tables
from stoker.store.database import Change, Database

_HELP = (
    "Run `stoker env` on the server's machine for a token that works, or check MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
)
_LONGEST_NAME = 64


@dataclass
class Token:
    """Everything of a token but its secret. Times in seconds since the epoch; `expires_at` None for never."""

    id: str
    name: str
    enabled: bool
    created_at: float
    last_used_at: float | None
    expires_at: float | None
    secret_sha256: str = field(repr=False)

    def is_expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class Tokens:
    """All tokens, in memory: each request of a client is checked. When one was last used is written by `save_uses`, in one go."""

    def __init__(self, database: Database, attempts: Attempts | None = None) -> None:
        """attempts: is told of those that fail."""
        self._attempts = attempts or Attempts()
        self._database = database
        with database.read() as connection:
            rows = connection.execute(sa.select(tables.tokens)).all()
        self._tokens = {row.id: Token(**row._asdict()) for row in rows}
        self._used: set[str] = set()
        self._jobs = Jobs("tokens")

    def authenticate(self, token_id: str, token_secret: str, peer: Peer) -> Token:
        """The token, which must be known, enabled, not expired, and its secret right. Raises Unauthenticated."""
        if not token_id:
            self._attempts.failed(peer, MISSING)
            raise Unauthenticated(f"No token was sent. {_HELP}")
        token = self._tokens.get(token_id)
        known_id = token.id if token is not None else ""
        self._attempts.check(peer, known_id)
        # The hash is compared even for an unknown id, so that timing tells nothing about which ids exist.
        matches = hmac.compare_digest(_hash(token_secret), token.secret_sha256 if token else _hash(""))
        if token is None or not matches:
            guess = _hash(f"{token_id} {token_secret}")
            self._attempts.failed(peer, UNKNOWN if token is None else WRONG, known_id, guess)
            shown = f"The token {token_id!r}" if is_id(token_id, "ak") else "The token"
            raise Unauthenticated(f"{shown} is not known to this server, or its secret is wrong. {_HELP}")
        now = time.time()
        if not token.enabled:
            self._attempts.failed(peer, DISABLED, token.id)
            raise Unauthenticated(f"The token {token_id!r} is disabled. `stoker token enable` enables it.")
        if token.is_expired(now):
            self._attempts.failed(peer, EXPIRED, token.id)
            raise Unauthenticated(f"The token {token_id!r} has expired. `stoker token new` makes another.")
        token.last_used_at = now
        self._used.add(token_id)
        return token

    def works(self, token_id: str, token_secret: str) -> bool:
        """Whether `authenticate` would let it pass."""
        try:
            self.authenticate(token_id, token_secret, INSIDE)
        except Unauthenticated:
            return False
        return True

    def all(self) -> list[Token]:
        """Oldest first."""
        return sorted(self._tokens.values(), key=lambda t: (t.created_at, t.id))

    def find(self, name_or_id: str) -> Token:
        """Raises NotFound, or InvalidArgument for a name that several have."""
        token = self._tokens.get(name_or_id)
        if token is not None:
            return token
        named = [t for t in self._tokens.values() if name_or_id and t.name == name_or_id]
        if not named:
            raise NotFound(f"There is no token {name_or_id!r} on this server. `stoker token list` shows all.")
        if len(named) > 1:
            raise InvalidArgument(
                f"{len(named)} tokens have the name {name_or_id!r}. Say which by its id: {', '.join(t.id for t in named)}."
            )
        return named[0]

    async def create(self, name: str = "", lifetime: float | None = None) -> tuple[str, str]:
        """A new token as (id, secret), good for `lifetime` seconds or for ever. The secret cannot be read again. Raises InvalidArgument."""
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise InvalidArgument(
                f"A token's name may have {_LONGEST_NAME} printable characters; {name!r} is no such name."
            )
        if lifetime is not None and not 0 < lifetime < math.inf:
            raise InvalidArgument(f"A token cannot be good for {lifetime:g} seconds.")
        now = time.time()
        secret = "as-" + secrets.token_urlsafe(24)
        expires_at = None if lifetime is None else now + lifetime
        token = Token(new_id("ak"), name, True, now, None, expires_at, secret_sha256=_hash(secret))
        work = partial(sa.Connection.execute, statement=sa.insert(tables.tokens), parameters=[vars(token)])
        await self._database.write(Change(work, lambda _: self._tokens.update({token.id: token})))
        return token.id, secret

    async def enable(self, token_ids: Sequence[str]) -> None:
        """Raises NotFound; then nothing is changed."""
        await self._set_enabled([self.find(i) for i in token_ids], True)

    async def disable(self, token_ids: Sequence[str]) -> None:
        """Raises NotFound, or FailedPrecondition when no token that works would be left; then nothing is changed.

        They work no more from now on, also while that cannot be stored: it is stored as soon as it can be."""
        tokens = [self.find(i) for i in token_ids]
        self._check_others(tokens)
        for token in tokens:
            token.enabled = False
        await self._jobs.see_to("note that tokens are disabled", partial(self._note_disabled, tokens))

    async def delete(self, token_id: str) -> None:
        """Raises NotFound, or FailedPrecondition when no token that works would be left."""
        token = self.find(token_id)
        self._check_others([token])
        token.enabled = False  # from now on; but only what is stored outlasts a restart, so until then it is known, to be deleted again
        await self._jobs.see_to(f"delete {token.id}", partial(self._delete, token.id))

    async def close(self) -> None:
        """Writes down the last uses."""
        await self._jobs.close(patience=0.0)
        await self.save_uses()

    async def save_uses(self) -> None:
        """Writes down when tokens were last used. To be called now and then."""
        used = set(self._used)
        rows = [{"b_id": t.id, "b_used": t.last_used_at} for t in map(self._tokens.get, used) if t is not None]
        if rows:
            statement = (
                sa.update(tables.tokens)
                .where(tables.tokens.c.id == sa.bindparam("b_id"))
                .values(last_used_at=sa.bindparam("b_used"))
            )
            await self._database.write(lambda connection: connection.execute(statement, rows))
        self._used -= used

    async def _set_enabled(self, tokens: Sequence[Token], enabled: bool) -> None:
        def then(_: object) -> None:
            for token in tokens:
                token.enabled = enabled

        chosen = sa.update(tables.tokens).where(tables.tokens.c.id.in_([t.id for t in tokens]))
        await self._database.write(Change(lambda connection: connection.execute(chosen.values(enabled=enabled)), then))

    async def _note_disabled(self, tokens: Sequence[Token]) -> None:
        """But not of those that were enabled again before it could be stored."""
        await self._set_enabled([token for token in tokens if not token.enabled], False)

    async def _delete(self, token_id: str) -> None:
        def then(_: object) -> None:
            self._tokens.pop(token_id, None)
            self._used.discard(token_id)

        statement = sa.delete(tables.tokens).where(tables.tokens.c.id == token_id)
        await self._database.write(Change(lambda connection: connection.execute(statement), then))

    def _check_others(self, leaving: Sequence[Token]) -> None:
        """Nobody shall lock everybody out."""
        now, gone = time.time(), {t.id for t in leaving}
        if not any(t.enabled and not t.is_expired(now) and t.id not in gone for t in self._tokens.values()):
            raise FailedPrecondition(
                "No token that works would be left. Make another first: `stoker token new` on the server's machine."
            )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
