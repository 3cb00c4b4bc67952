"""Object ids: a two-letter prefix, a dash and 22 base62 characters, the only shape every client command accepts."""

from __future__ import annotations

import hashlib
import os
import re

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)  # two digits at a time: every input gets an id
_LAST = _ALPHABET.replace("V", "")
_ID = re.compile(r"^[a-z]{2}-[0-9A-Za-z]{22}$")
_NAME = re.compile(r"^[a-zA-Z0-9\-_.]{1,64}$")


def new_id(prefix: str) -> str:
    """A fresh random id. Task ids never end in `V`, which the client takes for a sandbox of the second kind."""
    return _id(prefix, os.urandom(17))


def content_id(prefix: str, content: bytes) -> str:
    """The id of immutable content: equal bytes give equal ids (about 130 bits of SHA-256)."""
    return _id(prefix, hashlib.sha256(content).digest()[:17])


def _id(prefix: str, entropy: bytes) -> str:
    number, last = divmod(int.from_bytes(entropy, "big"), len(_LAST))
    number, first = divmod(number, len(_ALPHABET))
    digits = [_ALPHABET[first]]
    for _ in range(10):
        number, pair = divmod(number, len(_PAIRS))
        digits.append(_PAIRS[pair])
    return f"{prefix}-{''.join(digits)}{_LAST[last]}"


def is_id(text: str, prefix: str | None = None) -> bool:
    """Whether `text` has the shape of an id (of the kind `prefix`, when given)."""
    return bool(_ID.match(text)) and (prefix is None or text.startswith(prefix + "-"))


def is_name(text: str) -> bool:
    """Whether `text` may name an object: 1 to 64 of letters, digits, `-`, `_` and `.`, not itself shaped like an id."""
    return bool(_NAME.match(text)) and not is_id(text)
