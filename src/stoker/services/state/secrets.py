"""Secrets: names for environment variables whose values are encrypted at rest and handed to containers alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stoker.aio.jobs import Jobs
from stoker.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from stoker.ids import content_id, is_name, new_id
from stoker.services.environments.environments import Environments
from stoker.services.environments.named import named_rows
from stoker.store import tables
from stoker.store.database import Database

_NONCE_BYTES = 12
_log = structlog.get_logger(__name__)
_PATIENCE = 5.0  # seconds for which the end of the server waits for what is being stored
_USE_RESOLUTION = 60.0  # seconds between two records of the last use


@dataclass(frozen=True)
class Secret:
    """What may be shown of a secret: everything but the values. Times in seconds since the epoch; `name` None for anonymous ones."""

    id: str
    environment_id: str
    name: str | None
    keys: tuple[str, ...]
    created_at: float
    updated_at: float
    last_used_at: float | None


class Secrets:
    """All secrets. Values are sealed with AES-256-GCM, each bound to the id of its secret."""

    def __init__(self, *, database: Database, environments: Environments, key: bytes) -> None:
        self._database = database
        self._environments = environments
        self._key = key
        self._cipher = AESGCM(key)
        self._jobs = Jobs("secrets")
        environments.on_delete.append(self._delete_all)

    def check_key(self) -> None:
        """The log says so when the key is another than the newest secret was stored with. Others may be older than a change of the key."""
        newest = sa.select(tables.secrets).order_by(tables.secrets.c.updated_at.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(newest).first()
        try:
            if row is not None:
                self._unseal(row)
        except FailedPrecondition as error:
            _log.error("the key of the secrets is not the right one", detail=str(error))

    def get(self, secret_id: str) -> Secret:
        """Raises NotFound."""
        return _secret(self._row(secret_id))

    def find(self, environment_id: str, name: str, required_keys: Sequence[str] = ()) -> Secret:
        """The secret of that name. Raises NotFound, or FailedPrecondition that names the required keys it does not have."""
        with self._database.read() as connection:
            row = connection.execute(_by_name(environment_id, name)).first()
        environment = self._environments.get(environment_id).name
        if row is None:
            raise NotFound(
                f"Secret {name!r} not found in the environment {environment!r}. "
                f"`modal secret list` shows those there are; `modal secret create {name} KEY=VALUE` makes it."
            )
        secret = _secret(row)
        missing = [key for key in required_keys if key not in secret.keys]
        if missing:
            raise FailedPrecondition(
                f"Secret is missing key(s): {', '.join(missing)}. "  # clients look for this beginning
                f"The secret {name!r} in the environment {environment!r} has: {', '.join(secret.keys) or 'none'}."
            )
        return secret

    async def create(
        self, environment_id: str, name: str, values: Mapping[str, str], *, if_exists: str = "fail"
    ) -> Secret:
        """A named secret. if_exists: "fail" (AlreadyExists), "keep" the old values, or "replace" them. Raises InvalidArgument."""
        if not is_name(name):
            raise InvalidArgument(f"{name!r} cannot name a secret: use 1 to 64 letters, digits, '-', '_' and '.'.")
        _check_values(values)

        def work(connection: sa.Connection) -> Any:
            old = connection.execute(_by_name(environment_id, name)).first()
            if old is None:
                row = self._sealed_row(new_id("st"), environment_id, name, values)
                connection.execute(sa.insert(tables.secrets), [row])
            elif if_exists == "fail":
                raise AlreadyExists(
                    f"The secret {name!r} exists already. Replace it with `modal secret create --force`, "
                    f"or change some of its keys with modal.Secret.from_name({name!r}).update(...) in Python."
                )
            elif if_exists == "replace":
                self._reseal(connection, old.id, values)
            return connection.execute(_by_name(environment_id, name)).one()

        return _secret(await self._database.write(work))

    async def create_anonymous(self, environment_id: str, values: Mapping[str, str]) -> Secret:
        """A secret without a name. Equal values give the same secret, so that images which depend on it stay cached."""
        _check_values(values)
        document = json.dumps([environment_id, sorted(values.items())]).encode()
        # Keyed, so that nobody who sees an id can test guesses of the values.
        secret_id = content_id("st", hmac.new(self._key, document, hashlib.sha256).digest())

        def work(connection: sa.Connection) -> Any:
            chosen = sa.select(tables.secrets).where(tables.secrets.c.id == secret_id)
            if connection.execute(chosen).first() is None:
                connection.execute(
                    sa.insert(tables.secrets), [self._sealed_row(secret_id, environment_id, None, values)]
                )
            return connection.execute(chosen).one()

        return _secret(await self._database.write(work))

    async def update(self, secret_id: str, changes: Mapping[str, str | None]) -> Secret:
        """Sets keys; a value of None removes its key. Raises NotFound, InvalidArgument, or FailedPrecondition for anonymous secrets."""
        _check_values({key: value or "" for key, value in changes.items()})

        def work(connection: sa.Connection) -> Any:
            chosen = sa.select(tables.secrets).where(tables.secrets.c.id == secret_id)
            row = connection.execute(chosen).first()
            if row is None:
                raise _unknown(secret_id)
            if row.name is None:
                raise FailedPrecondition(
                    "Only secrets with a name can be updated; make a new one with Secret.from_dict."
                )
            merged = {**self._unseal(row), **changes}
            values = {key: value for key, value in merged.items() if value is not None}
            self._reseal(connection, secret_id, values)
            return connection.execute(chosen).one()

        return _secret(await self._database.write(work))

    async def delete(self, secret_id: str) -> None:
        """Raises NotFound."""
        statement = sa.delete(tables.secrets).where(tables.secrets.c.id == secret_id)
        if not await self._database.write(lambda connection: connection.execute(statement).rowcount):
            raise _unknown(secret_id)

    def named(self, environment_id: str, limit: int = 0, created_before: float = 0.0) -> list[Secret]:
        """Named secrets, newest first. limit and created_before (seconds since the epoch): 0 for none."""
        rows = named_rows(self._database, tables.secrets, environment_id, limit, created_before)
        return [_secret(row) for row in rows]

    async def values(self, secret_ids: Sequence[str]) -> dict[str, str]:
        """The environment variables of several secrets, later ones first in rank; for the node alone. Raises NotFound."""
        values: dict[str, str] = {}
        now, used = time.time(), []
        for secret_id in reversed(dict.fromkeys(reversed(secret_ids))):  # each once, where it comes last
            row = self._row(secret_id)
            values |= self._unseal(row)
            if (row.last_used_at or 0.0) < now - _USE_RESOLUTION:
                used.append(secret_id)
        if used:
            statement = sa.update(tables.secrets).where(tables.secrets.c.id.in_(used)).values(last_used_at=now)
            note = partial(sa.Connection.execute, statement=statement)
            # Beside: a container must not fail to start for it.
            self._jobs.start("note the use of secrets", self._database.write(note))
        return values

    async def close(self) -> None:
        await self._jobs.close(patience=_PATIENCE)

    async def _delete_all(self, environment_id: str) -> None:
        statement = sa.delete(tables.secrets).where(tables.secrets.c.environment_id == environment_id)
        await self._database.write(lambda connection: connection.execute(statement))

    def _row(self, secret_id: str) -> Any:
        with self._database.read() as connection:
            row = connection.execute(sa.select(tables.secrets).where(tables.secrets.c.id == secret_id)).first()
        if row is None:
            raise _unknown(secret_id)
        return row

    def _sealed_row(
        self, secret_id: str, environment_id: str, name: str | None, values: Mapping[str, str]
    ) -> dict[str, object]:
        now = time.time()
        return {
            "id": secret_id,
            "environment_id": environment_id,
            "name": name,
            "app_id": "",
            "keys": sorted(values),
            "sealed": self._seal(secret_id, values),
            "created_at": now,
            "updated_at": now,
            "last_used_at": None,
        }

    def _reseal(self, connection: sa.Connection, secret_id: str, values: Mapping[str, str]) -> None:
        changed = {"keys": sorted(values), "sealed": self._seal(secret_id, values), "updated_at": time.time()}
        connection.execute(sa.update(tables.secrets).where(tables.secrets.c.id == secret_id).values(**changed))

    def _seal(self, secret_id: str, values: Mapping[str, str]) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, json.dumps(dict(values)).encode(), secret_id.encode())

    def _unseal(self, row: Any) -> dict[str, str]:
        nonce, sealed = row.sealed[:_NONCE_BYTES], row.sealed[_NONCE_BYTES:]
        try:
            values: dict[str, str] = json.loads(self._cipher.decrypt(nonce, sealed, row.id.encode()))
        except InvalidTag:
            raise FailedPrecondition(
                f"The secret {row.name or row.id!r} cannot be decrypted: it was stored with another key, or is damaged. "
                "Restore secret.key in the data directory (or the setting secret_key_file or secret_key_command), or create the secret again."
            ) from None
        return values


def _by_name(environment_id: str, name: str) -> sa.Select[Any]:
    secrets = tables.secrets
    return sa.select(secrets).where(secrets.c.environment_id == environment_id, secrets.c.name == name)


def _secret(row: Any) -> Secret:
    return Secret(
        row.id, row.environment_id, row.name, tuple(row.keys), row.created_at, row.updated_at, row.last_used_at
    )


def _unknown(secret_id: str) -> NotFound:
    return NotFound(f"Secret {secret_id!r} not found on this server; it may have been deleted.")


def _check_values(values: Mapping[str, str]) -> None:
    """Messages name keys, never values."""
    for key, value in values.items():
        if not key or "=" in key or "\0" in key:
            raise InvalidArgument(
                f"{key!r} cannot be a key of a secret: it must be the name of an environment variable."
            )
        if "\0" in value:
            raise InvalidArgument(
                f"The value of the key {key!r} contains a zero byte, which no environment variable can."
            )
