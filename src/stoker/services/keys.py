"""Key files: random bytes that never leave the data directory."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from stoker.errors import FailedPrecondition

_BYTES = 32


def load_or_create_key(path: Path) -> bytes:
    """The 32-byte key in `path`, made on first use and readable by its owner alone. Raises FailedPrecondition for a damaged file."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was faster: its key counts
                os.link(temporary, path)
        finally:
            temporary.unlink()
    key = path.read_bytes()
    if len(key) != _BYTES:
        raise FailedPrecondition(
            f"The key file {path} is damaged: it must hold {_BYTES} bytes, not {len(key)}. Restore it from a backup."
        )
    return key
