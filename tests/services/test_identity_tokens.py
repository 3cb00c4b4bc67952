"""The tokens by which containers prove who they are, and the key that signs them."""

from __future__ import annotations

import base64
import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from stoker.errors import FailedPrecondition
from stoker.services.access.keys import load_or_create_rsa_key
from stoker.services.containers.identity_tokens import IdentityTokens

CLAIMS = {
    "workspace_id": "local",
    "environment_id": "en-1",
    "environment_name": "main",
    "app_id": "ap-1",
    "app_name": "shop",
    "function_id": "fu-1",
    "function_name": "sell",
    "container_id": "ta-1",
}


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def checked(token: str, jwks: dict[str, Any]) -> dict[str, Any]:
    """What a service does that gets a token: the claims, if the signature is that of a key of the issuer."""
    head, payload, signature = token.split(".")
    [key] = [key for key in jwks["keys"] if key["kid"] == json.loads(decoded(head))["kid"]]
    n, e = (int.from_bytes(decoded(key[name]), "big") for name in ("n", "e"))
    public = rsa.RSAPublicNumbers(e, n).public_key()
    public.verify(decoded(signature), f"{head}.{payload}".encode(), padding.PKCS1v15(), hashes.SHA256())
    return dict(json.loads(decoded(payload)))


def test_a_token_says_who_the_container_is_and_for_how_long(tmp_path: Path) -> None:
    tokens = IdentityTokens(load_or_create_rsa_key(tmp_path / "identity.key"), "https://stoker.example.com")
    claims = checked(tokens.issue(CLAIMS), tokens.keys())
    subject = "modal:workspace_id:local:environment_name:main:app_name:shop:function_name:sell:container_id:ta-1"
    assert (
        claims.items()
        >= (CLAIMS | {"sub": subject, "aud": "oidc.modal.com", "iss": "https://stoker.example.com"}).items()
    )
    assert time.time() + 47 * 3600 < claims["exp"] < time.time() + 49 * 3600
    assert tokens.discovery()["jwks_uri"] == "https://stoker.example.com/.well-known/jwks.json"
    assert set(tokens.discovery()["claims_supported"]) == set(claims)
    assert tokens.issue(CLAIMS) != tokens.issue(CLAIMS)


def test_a_changed_token_is_not_believed(tmp_path: Path) -> None:
    tokens = IdentityTokens(load_or_create_rsa_key(tmp_path / "identity.key"), "https://stoker.example.com")
    head, payload, signature = tokens.issue(CLAIMS).split(".")
    forged = base64.urlsafe_b64encode(decoded(payload).replace(b'"ap-1"', b'"ap-2"')).decode().rstrip("=")
    with pytest.raises(InvalidSignature):
        checked(f"{head}.{forged}.{signature}", tokens.keys())


def test_the_key_stays(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = IdentityTokens(load_or_create_rsa_key(path), "https://stoker.example.com")
    again = IdentityTokens(load_or_create_rsa_key(path), "https://stoker.example.com")
    assert checked(first.issue(CLAIMS), again.keys())["app_name"] == "shop"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"no key")
    with pytest.raises(FailedPrecondition, match=r"identity\.key is damaged"):
        load_or_create_rsa_key(path)
