"""Where the key that encrypts secrets comes from."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

from stoker.errors import FailedPrecondition
from stoker.services.access.keys import secrets_key

_KEY = bytes(range(32))


def printing(text: str) -> list[str]:
    return [sys.executable, "-c", f"print({text!r})"]


def test_a_file_of_the_servers_own_is_made_once(tmp_path: Path) -> None:
    own = tmp_path / "secret.key"
    key = secrets_key(own)
    assert len(key) == 32 and secrets_key(own) == key and own.stat().st_mode & 0o777 == 0o600


def test_a_command_ranks_above_a_file_and_a_file_above_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(_KEY[::-1].hex() + "\n")
    assert secrets_key(tmp_path / "own", file=str(file)) == _KEY[::-1]
    encoded = base64.b64encode(_KEY).decode()
    assert secrets_key(tmp_path / "own", file=str(file), command=printing(encoded)) == _KEY
    assert not (tmp_path / "own").exists()


def test_what_yields_no_key_says_so_and_shows_nothing(tmp_path: Path) -> None:
    own = tmp_path / "own"
    failing = [sys.executable, "-c", "import sys; print('half-a-key'); sys.exit('store is sealed')"]
    for options, words in (
        ({"command": printing("half-a-key")}, "is not a key"),
        ({"command": failing}, "ended with code 1: store is sealed"),
        ({"command": ["/no/such/program"]}, "No such file"),
        ({"file": str(tmp_path / "none")}, "cannot be read"),
    ):
        with pytest.raises(FailedPrecondition, match=words) as caught:
            secrets_key(own, **options)  # type: ignore[arg-type]
        assert "half-a-key" not in str(caught.value)
    assert not own.exists(), "a key of its own would encrypt what nobody else could read"
