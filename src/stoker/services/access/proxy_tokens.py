"""Proxy tokens: what calls of protected web endpoints show. They open nothing else."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from stoker.errors import InvalidArgument, NotFound
from stoker.ids import new_id
from stoker.services.access.attempts import ELSEWHERE, UNKNOWN, WRONG, Attempts, Peer
from stoker.services.environments.environments import Environments
from stoker.store import tables
from stoker.store.database import Change, Database

_LONGEST_NAME = 64

Limit = Callable[["set[str] | None"], "set[str]"]
"""Gives the environments that a token is to be good for from those that it is good for now, None for all."""


@dataclass
class ProxyToken:
    """scoped: good for `environment_ids` alone, else for every environment. `created_at` in seconds since the epoch."""

    id: str
    name: str
    scoped: bool
    created_by: str
    created_at: float
    secret_sha256: str = field(repr=False)
    environment_ids: set[str] = field(default_factory=set)

    def is_good_for(self, environment_id: str) -> bool:
        return not self.scoped or environment_id in self.environment_ids


class ProxyTokens:
    """All proxy tokens, in memory: each request to a protected endpoint is checked."""

    def __init__(self, *, database: Database, environments: Environments, attempts: Attempts | None = None) -> None:
        """attempts: is told of those that fail."""
        self._attempts = attempts or Attempts()
        self._database = database
        self._environments = environments
        with database.read() as connection:
            rows = connection.execute(sa.select(tables.proxy_tokens)).all()
            pairs = connection.execute(sa.select(tables.proxy_token_environments)).all()
        self._tokens = {row.id: ProxyToken(**row._asdict()) for row in rows}
        for token_id, environment_id in pairs:
            if token_id in self._tokens:
                self._tokens[token_id].environment_ids.add(environment_id)
        environments.on_delete.append(self._forget_environment)

    def check(self, token_id: str, token_secret: str, environment_id: str, peer: Peer) -> bool:
        """Whether this is a token that opens endpoints of the environment. Raises TooManyAttempts."""
        token = self._tokens.get(token_id)
        known_id = token.id if token is not None else ""
        self._attempts.check(peer, known_id)
        # The hash is compared even for an unknown id, so that timing tells nothing about which ids exist.
        matches = hmac.compare_digest(_hash(token_secret), token.secret_sha256 if token else _hash(""))
        if token is not None and matches and token.is_good_for(environment_id):
            return True
        reason = UNKNOWN if token is None else ELSEWHERE if matches else WRONG
        guess = "" if matches else _hash(f"{token_id} {token_secret}")
        self._attempts.failed(peer, reason, known_id, guess)
        return False

    def all(self, environment_id: str = "") -> list[ProxyToken]:
        """Oldest first; those that are good for one environment, when it is given."""
        chosen = [t for t in self._tokens.values() if not environment_id or t.is_good_for(environment_id)]
        return sorted(chosen, key=lambda t: (t.created_at, t.id))

    def get(self, token_id: str) -> ProxyToken:
        """Raises NotFound."""
        token = self._tokens.get(token_id)
        if token is None:
            raise NotFound(
                f"There is no proxy token {token_id!r} on this server. `modal workspace proxy-tokens list` shows all."
            )
        return token

    async def create(self, name: str, *, scoped: bool = False, created_by: str = "") -> tuple[str, str]:
        """A new token as (id, secret). The secret cannot be read again. Raises InvalidArgument."""
        _check_name(name)
        secret = "ws-" + secrets.token_urlsafe(24)
        token = ProxyToken(new_id("wk"), name, scoped, created_by, time.time(), secret_sha256=_hash(secret))
        row = {key: value for key, value in vars(token).items() if key != "environment_ids"}
        work = partial(sa.Connection.execute, statement=sa.insert(tables.proxy_tokens), parameters=[row])
        await self._database.write(Change(work, lambda _: self._tokens.update({token.id: token})))
        return token.id, secret

    async def rename(self, token_id: str, name: str) -> ProxyToken:
        """Raises NotFound or InvalidArgument."""
        _check_name(name)
        token = self.get(token_id)
        chosen = sa.update(tables.proxy_tokens).where(tables.proxy_tokens.c.id == token_id)

        def then(_: object) -> None:
            token.name = name

        await self._database.write(Change(lambda connection: connection.execute(chosen.values(name=name)), then))
        return token

    async def allow(self, token_id: str, environment_id: str) -> None:
        """Makes a token good for an environment; one that was good for all is then good for this one alone. Raises NotFound."""
        self._environments.get(environment_id)
        await self._limit(self.get(token_id), lambda good: (good or set()) | {environment_id})

    async def revoke(self, token_id: str, environment_id: str) -> None:
        """Makes a token no good for an environment; one that was good for all is then good for the others. Raises NotFound."""
        self._environments.get(environment_id)
        everywhere = {environment.id for environment in self._environments.all()}
        await self._limit(self.get(token_id), lambda good: (everywhere if good is None else good) - {environment_id})

    async def delete(self, token_id: str) -> None:
        """Raises NotFound."""
        self.get(token_id)

        def work(connection: sa.Connection) -> None:
            pairs = tables.proxy_token_environments
            connection.execute(sa.delete(pairs).where(pairs.c.token_id == token_id))
            connection.execute(sa.delete(tables.proxy_tokens).where(tables.proxy_tokens.c.id == token_id))

        await self._database.write(Change(work, lambda _: self._forget(token_id)))

    async def _forget_environment(self, environment_id: str) -> None:
        def then(_: object) -> None:
            for token in self._tokens.values():
                token.environment_ids.discard(environment_id)

        pairs = tables.proxy_token_environments
        statement = sa.delete(pairs).where(pairs.c.environment_id == environment_id)
        await self._database.write(Change(lambda connection: connection.execute(statement), then))

    async def _limit(self, token: ProxyToken, limit: Limit) -> None:
        """Makes a token good for certain environments alone, whatever else is changed at the same time."""
        pairs, tokens = tables.proxy_token_environments, tables.proxy_tokens

        def work(connection: sa.Connection) -> set[str]:
            scoped = connection.execute(sa.select(tokens.c.scoped).where(tokens.c.id == token.id)).scalar()
            own = sa.select(pairs.c.environment_id).where(pairs.c.token_id == token.id)
            good = limit(set(connection.execute(own).scalars()) if scoped else None)
            connection.execute(sa.update(tokens).where(tokens.c.id == token.id).values(scoped=True))
            connection.execute(sa.delete(pairs).where(pairs.c.token_id == token.id))
            if good:
                rows = [{"token_id": token.id, "environment_id": environment_id} for environment_id in good]
                connection.execute(sa.insert(pairs), rows)
            return good

        def then(good: set[str]) -> None:
            token.scoped, token.environment_ids = True, good

        await self._database.write(Change(work, then))

    def _forget(self, token_id: str) -> None:
        self._tokens.pop(token_id, None)


def _check_name(name: str) -> None:
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidArgument(
            f"A token's name may have {_LONGEST_NAME} printable characters; {name!r} is no such name."
        )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
