"""Certificates from an authority that speaks ACME, such as Let's Encrypt: asked for at the first start, renewed before they end.

The authority checks that the names are ours by fetching a page of the gateway over plain HTTP (HTTP-01).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from stoker.errors import FailedPrecondition

CHALLENGE_PATH = "/.well-known/acme-challenge/"
_RENEW_AT = 1 / 3  # of its life is left
_LOOK_AGAIN = 6 * 3600.0  # seconds
_TRY_AGAIN = (60.0, 3600.0)  # seconds after a failure: doubled, up to the second
_log = structlog.get_logger(__name__)


class Acme:
    """Keeps `cert` and `key` in a directory, for these names."""

    def __init__(self, *, directory: Path, domains: list[str], email: str, authority: str, ca: str = "") -> None:
        """authority: the URL of its directory; ca: PEM file with the root of that URL, "" for a public one.

        Raises FailedPrecondition when the library is not installed."""
        try:
            import acme.client  # noqa: F401
        except ImportError:
            raise FailedPrecondition(
                "The setting acme_domains needs the package `acme`: pip install 'stoker[acme]'."
            ) from None
        self.cert = directory / "certificate.pem"
        self.key = directory / "key.pem"
        self.answers: dict[str, str] = {}
        """What the gateway has to answer under `CHALLENGE_PATH`, by token."""
        self._account = directory / "account.pem"
        self._domains = domains
        self._email = email
        self._authority = authority
        self._ca = ca
        self._task: asyncio.Task[None] | None = None
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def start(self, on_new: Callable[[], Awaitable[None]]) -> None:
        """Looks after the certificate until `close`. on_new: called when there is a new one, and at once when there is one already; again
        after a while when it fails."""
        self._task = asyncio.get_running_loop().create_task(self._keep(on_new))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep(self, on_new: Callable[[], Awaitable[None]]) -> None:
        pause, longest = _TRY_AGAIN
        in_use = self.cert.exists() and await self._tell(on_new)
        while True:
            try:
                if not self._is_fresh():
                    await asyncio.to_thread(self._obtain)
                    _log.info("certificate obtained", domains=self._domains)
                    in_use = False
                if not in_use:
                    await on_new()
                    in_use = True
            except Exception as error:
                # Of many kinds: the network's, the authority's, the library's. The names may point here only later.
                _log.warning("no certificate yet", domains=self._domains, reason=str(error), next_try_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(longest, pause * 2)
            else:
                pause = _TRY_AGAIN[0]
                await asyncio.sleep(_LOOK_AGAIN)

    async def _tell(self, on_new: Callable[[], Awaitable[None]]) -> bool:
        """Whether a certificate of an earlier start can be used."""
        try:
            await on_new()
        except Exception as error:
            _log.warning("certificate not used", file=str(self.cert), reason=str(error))
            return False
        return True

    def _is_fresh(self) -> bool:
        """Whether the certificate is for all names and far from its end, and the key is its own: the two files are written one after the other."""
        try:
            found = x509.load_pem_x509_certificate(self.cert.read_bytes())
            key = serialization.load_pem_private_key(self.key.read_bytes(), None)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, x509.ExtensionNotFound):
            return False
        if key.public_key() != found.public_key():
            return False
        if set(self._domains) - set(names.get_values_for_type(x509.DNSName)):
            return False
        begin, end = found.not_valid_before_utc, found.not_valid_after_utc
        return end - datetime.now(timezone.utc) > (end - begin) * _RENEW_AT

    def _obtain(self) -> None:
        """Talks with the authority; takes seconds. Runs in a thread."""
        from acme import challenges, client, crypto_util, errors, messages
        from josepy.jwk import JWKRSA

        account: Any = JWKRSA(key=_load_or_create(self._account, lambda: rsa.generate_private_key(65537, 2048)))
        network = client.ClientNetwork(account, user_agent="stoker", verify_ssl=self._ca or True)  # type: ignore[arg-type]
        authority = client.ClientV2(client.ClientV2.get_directory(self._authority, network), network)
        wish = messages.NewRegistration.from_data(email=self._email or None, terms_of_service_agreed=True)
        try:
            authority.new_account(wish)
        except errors.ConflictError as known:
            network.account = messages.RegistrationResource(uri=known.location, body=messages.Registration())
        key = ec.generate_private_key(ec.SECP256R1())
        order = authority.new_order(crypto_util.make_csr(_pem(key), self._domains))
        for authorization in order.authorizations:
            offered = [c for c in authorization.body.challenges if isinstance(c.chall, challenges.HTTP01)]
            if not offered:
                raise FailedPrecondition(
                    "The authority does not offer HTTP-01 for one of the names; a `*.` name needs tls_cert."
                )
            answer, page = offered[0].response_and_validation(account)
            self.answers[offered[0].chall.encode("token")] = page
            authority.answer_challenge(offered[0], answer)
        try:
            order = authority.poll_and_finalize(order)
        finally:
            self.answers.clear()
        _write(self.key, _pem(key))
        _write(self.cert, order.fullchain_pem.encode())


def _load_or_create(path: Path, create: Callable[[], rsa.RSAPrivateKey]) -> rsa.RSAPrivateKey:
    if path.exists():
        found = serialization.load_pem_private_key(path.read_bytes(), None)
        assert isinstance(found, rsa.RSAPrivateKey)
        return found
    made = create()
    _write(path, _pem(made))
    return made


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, for our eyes only."""
    half = path.with_suffix(".new")
    with open(half, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
    half.replace(path)
