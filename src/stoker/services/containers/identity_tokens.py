"""Tokens by which containers prove to other services who they are (OpenID Connect), without a secret that lives long.

A token is a JWT that this server signs. Whoever gets one fetches the public key from the issuer, which is this server, and believes the claims."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

AUDIENCE = "oidc.modal.com"
"""Whom tokens are for. As with Modal, so that what checks its tokens takes ours when the issuer is changed."""

DISCOVERY_PATH, KEYS_PATH = "/.well-known/openid-configuration", "/.well-known/jwks.json"
_LIFETIME = 48 * 3600  # seconds
_SUBJECT = ("workspace_id", "environment_name", "app_name", "function_name", "container_id")
_CLAIMS = (*_SUBJECT, "environment_id", "app_id", "function_id")


class IdentityTokens:
    """Signs the tokens of containers and publishes the key. Asked by `Surroundings` for each container, and by the gateway for the documents."""

    def __init__(self, key: rsa.RSAPrivateKey, issuer: str) -> None:
        """issuer: the URL of this server, without a slash at its end, as those see it who check tokens."""
        self._key = key
        self._issuer = issuer
        numbers = key.public_key().public_numbers()
        self._public = {"e": _integer(numbers.e), "kty": "RSA", "n": _integer(numbers.n)}
        # RFC 7638: the digest of these members in this order.
        digest = hashlib.sha256(json.dumps(self._public, separators=(",", ":"), sort_keys=True).encode()).digest()
        self._key_id = _base64(digest)

    def issue(self, claims: Mapping[str, str]) -> str:
        """A token. claims: all of `workspace_id`, `environment_name`, `app_name`, `function_name`, `container_id`, `environment_id`, `app_id`
        and `function_id`; the first five make the subject."""
        now = int(time.time())
        subject = ":".join(f"{name}:{claims[name]}" for name in _SUBJECT)
        payload = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": f"modal:{subject}",
            "iat": now,
            "exp": now + _LIFETIME,
            "jti": str(uuid.uuid4()),
            **{name: claims[name] for name in _CLAIMS},
        }
        head = {"alg": "RS256", "typ": "JWT", "kid": self._key_id}
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (head, payload))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"

    def keys(self) -> dict[str, Any]:
        """The public key, as a JWK set."""
        return {"keys": [{**self._public, "kid": self._key_id, "alg": "RS256", "use": "sig"}]}

    def discovery(self) -> dict[str, Any]:
        """The document that leads to the keys."""
        return {
            "issuer": self._issuer,
            "jwks_uri": self._issuer + KEYS_PATH,
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "scopes_supported": ["openid"],
            "claims_supported": ["iss", "aud", "sub", "iat", "exp", "jti", *_CLAIMS],
        }


def _integer(value: int) -> str:
    return _base64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
