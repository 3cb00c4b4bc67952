"""Where URLs point, for each kind of caller."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.errors import FailedPrecondition
from stoker.services.access.keys import load_or_create_key
from stoker.services.files.transfer import TransferUrls, UrlSigner


def base(kind: str, host: str, container_base: str = "http://172.21.0.1:9") -> str:
    urls = TransferUrls(signer=UrlSigner(b"key"), client_host="192.0.2.1", client_port=8, container_base=container_base)
    return urls.url("GET", "/x", kind=kind, host=host).split("/x?")[0]


def test_each_caller_gets_a_host_it_can_reach() -> None:
    assert base("client", "") == "http://192.0.2.1:8"
    assert base("client", "stoker.example") == "http://stoker.example:8"
    assert base("client", "[::1]") == base("client", "::1") == "http://[::1]:8"
    assert base("container", "stoker.example") == "http://172.21.0.1:9"
    assert base("container", "localhost", container_base="") == "http://192.0.2.1:8"


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path / "key")
    assert len(key) == 32 and load_or_create_key(tmp_path / "key") == key
    assert [p.name for p in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key").write_bytes(key[:-1])
    with pytest.raises(FailedPrecondition, match="damaged"):
        load_or_create_key(tmp_path / "key")
