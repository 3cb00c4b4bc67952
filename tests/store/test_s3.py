"""Blobs in an S3-compatible store, by a whole server and the unmodified client."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.conftest import STOKER, start_server, stop_server


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a store without objects but with the bucket `blobs`; the environment says how to reach it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="blobs")
        yield url
    finally:
        process.kill()
        process.wait()


CALL = """
import modal
app = modal.App()
@app.function(serialized=True)
def double(data):
    return data + data
with app.run():
    given = bytes(range(256)) * 12_000
    assert double.remote(given) == given + given
    print("as it went")
"""


def test_arguments_and_results_travel_through_a_bucket(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_BLOB_STORE", "s3://blobs/of-stoker")
    server = start_server(tmp_path / "data", "process")
    try:
        assert "as it went" in server.python(CALL).stdout
        bucket = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
        found = {o["Key"]: o["Size"] for o in bucket.list_objects_v2(Bucket="blobs")["Contents"]}
        assert sorted(size // 1_000_000 for size in found.values()) == [3, 6]
        assert all(key.startswith("of-stoker/bl-") for key in found)
        assert not [p for p in (server.data / "blobs").rglob("*") if p.is_file()]
    finally:
        stop_server(server)


@pytest.mark.parametrize("store", ["s3://no-such-bucket", "nowhere://x"])
def test_a_store_that_cannot_be_used_ends_the_start_with_a_sentence(s3: str, store: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*STOKER, "up", "--data", str(tmp_path / "data"), "--port", "0", "--runtime", "process"],
        env=os.environ | {"STOKER_BLOB_STORE": store},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert "blob_store" in done.stderr and "Traceback" not in done.stderr
