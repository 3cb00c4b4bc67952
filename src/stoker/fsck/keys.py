"""The small files at the top of a data directory: keys, the administrator's token, what a server tells of itself."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stoker.config import Settings
from stoker.datadir import DataDir
from stoker.errors import StokerError
from stoker.fsck.report import Report
from stoker.services.keys import load_key, load_rsa_key, secrets_key
from stoker.store import tables

_NONCE_BYTES = 12


def check(data: DataDir, report: Report) -> None:
    """secret.key, signing.key, identity.key, token.json, server.json."""
    for path, load, depends, remedy, heals in (
        (
            data.path / "secret.key",
            load_key,
            ["the values of all secrets"],
            "Restore it from a backup; without it they must be created again.",
            False,
        ),
        (
            data.signing_key,
            load_key,
            ["URLs that the server gave out, and tokens of @app.server"],
            "Remove it: the server makes another, and what it has given out is good no more.",
            True,
        ),
        (
            data.identity_key,
            load_rsa_key,
            ["identity tokens of containers (MODAL_IDENTITY_TOKEN)"],
            "Remove it: the server makes another, and tokens of the old one are worth nothing.",
            True,
        ),
    ):
        if path.exists():
            report.checked["key"] += 1
            try:
                load(path)
            except StokerError as error:
                heal = partial(path.unlink, missing_ok=True) if heals else None
                report.found("key", path.name, str(error), depends=depends, remedy=remedy, heal=heal)
    for path in (data.token_file, data.server_file):
        _check_document(path, report)


def check_secrets(settings: Settings, data: DataDir, engine: sa.Engine, report: Report) -> None:
    """Whether the secrets can be read with the key that the server would use."""
    path = data.path / "secret.key"
    with engine.connect() as connection:
        rows = connection.execute(sa.select(tables.secrets.c.id, tables.secrets.c.name, tables.secrets.c.sealed)).all()
    if not rows:
        return
    if not (settings.secret_key_command or settings.secret_key_file or path.exists()):
        report.found(
            "key",
            path.name,
            f"The key of {len(rows)} secrets is gone.",
            depends=["the values of all secrets"],
            remedy="Restore it from a backup, before a server starts and makes another.",
        )
        return
    try:
        cipher = AESGCM(secrets_key(path, file=settings.secret_key_file, command=settings.secret_key_command))
    except StokerError:
        return  # said before
    lost = [row for row in rows if not _opens(cipher, row.id, row.sealed)]
    report.checked["secret"] += len(rows)
    if len(lost) == len(rows):
        report.found(
            "key",
            path.name,
            f"It opens none of the {len(rows)} secrets: it is another key than they were stored with, or damaged.",
            depends=["the values of all secrets"],
            remedy="Restore it from a backup, or create the secrets again.",
        )
        return
    for row in lost:
        report.found(
            "secret",
            row.name or row.id,
            "Its values cannot be decrypted, though those of others can.",
            remedy="Create it again, or restore the data directory from a backup.",
        )


def _opens(cipher: AESGCM, secret_id: str, sealed: bytes) -> bool:
    try:
        json.loads(cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], secret_id.encode()))
    except (InvalidTag, ValueError):
        return False
    return True


def _check_document(path: Path, report: Report) -> None:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return
    report.checked["record"] += 1
    try:
        if isinstance(json.loads(text), dict):
            return
        reason = "it is no object"
    except ValueError as error:
        reason = str(error)
    report.found(
        "record",
        path.name,
        f"It is not the JSON document it should be ({reason}).",
        depends=["`stoker env`, `run` and `status` on this machine"],
        remedy="Remove it: the server writes it anew when it starts.",
        heal=partial(path.unlink, missing_ok=True),
    )
