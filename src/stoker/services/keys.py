"""Keys: random bytes in files that never leave the data directory, or what a key store yields."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from stoker.errors import FailedPrecondition

_BYTES = 32
_COMMAND_SECONDS = 60.0


def secrets_key(own: Path, *, file: str = "", command: Sequence[str] = ()) -> bytes:
    """The key that encrypts secrets: what `command` prints, or else what `file` holds, or else that of the file `own`, made on first use.

    Command and file yield 32 bytes in base64 or as 64 hexadecimal digits. Blocks. Raises FailedPrecondition; no message holds what they
    yielded."""
    if command:
        return _parsed(_output(command), f"the command `{command[0]}` of the setting secret_key_command")
    if file:
        try:
            return _parsed(Path(file).read_bytes(), f"the file {file} of the setting secret_key_file")
        except OSError as error:
            raise FailedPrecondition(
                f"The key of the secrets cannot be read from {file}: {error.strerror}. Correct the setting secret_key_file."
            ) from None
    return load_or_create_key(own)


def load_or_create_key(path: Path) -> bytes:
    """The 32-byte key in `path`, made on first use and readable by its owner alone. Raises FailedPrecondition for a damaged file."""
    if not path.exists():
        _create(path, secrets.token_bytes(_BYTES))
    return load_key(path)


def load_key(path: Path) -> bytes:
    """The 32-byte key in `path`. Raises FailedPrecondition for a damaged file."""
    key = path.read_bytes()
    if len(key) != _BYTES:
        raise FailedPrecondition(
            f"The key file {path} is damaged: it must hold {_BYTES} bytes, not {len(key)}. Restore it from a backup."
        )
    return key


def load_or_create_rsa_key(path: Path) -> rsa.RSAPrivateKey:
    """The RSA key in `path` (PEM), made on first use and readable by its owner alone. Blocks. Raises FailedPrecondition for a damaged file."""
    if not path.exists():
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _create(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return load_rsa_key(path)


def load_rsa_key(path: Path) -> rsa.RSAPrivateKey:
    """The RSA key in `path` (PEM). Blocks. Raises FailedPrecondition for a damaged file."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise FailedPrecondition(
            f"The key file {path} is damaged: it must hold an RSA key in PEM. Restore it from a backup, or remove it: a new one is made."
        )
    return key


def _create(path: Path, content: bytes) -> None:
    """Writes a file for its owner alone, in one step; one that is there already stays."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: its key counts
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _output(command: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(list(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it did not end within {_COMMAND_SECONDS:.0f} s"
        raise FailedPrecondition(
            f"The command `{command[0]}` of the setting secret_key_command yields no key: {reason}."
        ) from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise FailedPrecondition(
            f"The command `{command[0]}` of the setting secret_key_command ended with code {done.returncode}"
            f"{': ' + words[-1] if words else ''}. Without the key no secret can be read."
        )
    return done.stdout


def _parsed(text: bytes, source: str) -> bytes:
    word = text.strip()
    for decode in (binascii.unhexlify, lambda w: base64.b64decode(w, validate=True)):
        with contextlib.suppress(binascii.Error, ValueError):
            key = decode(word)
            if len(key) == _BYTES:
                return bytes(key)
    raise FailedPrecondition(
        f"What {source} yields is not a key: it must be {_BYTES} bytes in base64 or {2 * _BYTES} hexadecimal digits, as "
        "`openssl rand -base64 32` prints."
    )
