"""Object ids: a two-letter prefix, a dash and 22 base62 characters, the only shape every client command accepts."""

from __future__ import annotations

import hashlib
import re
import secrets

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH = 22
_ID = re.compile(r"^[a-z]{2}-[0-9A-Za-z]{22}$")
_NAME = re.compile(r"^[a-zA-Z0-9\-_.]{1,64}$")


def new_id(prefix: str) -> str:
    """A fresh random id. Task ids never end in `V`, which the client takes for a sandbox of the second kind."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH - 1))
    return f"{prefix}-{body}{secrets.choice(_ALPHABET.replace('V', ''))}"


def content_id(prefix: str, content: bytes) -> str:
    """The id of immutable content: equal bytes give equal ids (130 bits of SHA-256)."""
    number = int.from_bytes(hashlib.sha256(content).digest(), "big")
    body = []
    for _ in range(_LENGTH - 1):
        number, digit = divmod(number, 62)
        body.append(_ALPHABET[digit])
    return f"{prefix}-{''.join(body)}0"


def is_id(text: str, prefix: str | None = None) -> bool:
    """Whether `text` has the shape of an id (of the kind `prefix`, when given)."""
    return bool(_ID.match(text)) and (prefix is None or text.startswith(prefix + "-"))


def is_name(text: str) -> bool:
    """Whether `text` may name an object: 1 to 64 of letters, digits, `-`, `_` and `.`, not itself shaped like an id."""
    return bool(_NAME.match(text)) and not is_id(text)
