"""Buckets of an S3-compatible server, which checks keys and signatures, mounted in real sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import modal
import psutil
import pytest
from modal.client import Client
from modal_proto import api_pb2

from stoker.agent import bucket_mounts
from stoker.errors import FailedPrecondition
from stoker.nodes.buckets import BucketMount, Credentials, credentials_from
from stoker.runtime import linux
from tests.conftest import RunningServer, start_server, stop_server

needs_fuse = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or not shutil.which("rclone"), reason="needs rclone and /dev/fuse"
)
_BUCKET = "stoker-test"


@dataclass
class Store:
    endpoint: str
    key: str
    secret: str

    @property
    def s3(self) -> Any:
        return boto3.client("s3", **self.login())

    def login(self) -> dict[str, Any]:
        keys = {"aws_access_key_id": self.key, "aws_secret_access_key": self.secret}
        return {"endpoint_url": self.endpoint, "region_name": "us-east-1", **keys}

    def get(self, key: str) -> Any:
        """Empty for what is not there."""
        found = self.s3.list_objects_v2(Bucket=_BUCKET, Prefix=key).get("Contents")
        return self.s3.get_object(Bucket=_BUCKET, Key=key)["Body"].read() if found else b""

    def names(self) -> set[str]:
        return {found["Key"] for found in self.s3.list_objects_v2(Bucket=_BUCKET).get("Contents", [])}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """The server lets three calls through without keys: those that make the user."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "3"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        made = Store(f"http://127.0.0.1:{port}", "first", "first")
        iam = boto3.client("iam", **made.login())
        iam.create_user(UserName="stoker")
        policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
        iam.put_user_policy(UserName="stoker", PolicyName="all", PolicyDocument=policy)
        key = iam.create_access_key(UserName="stoker")["AccessKey"]
        made = Store(made.endpoint, key["AccessKeyId"], key["SecretAccessKey"])
        made.s3.create_bucket(Bucket=_BUCKET)
        for name in ("part/data.bin", "top.txt", "doomed", "moving", "replaced"):
            made.s3.put_object(Bucket=_BUCKET, Key=name, Body=bytes(range(256)) * 4096)
        yield made
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def client_of(server: RunningServer, store: Store) -> Iterator[Client]:
    environment = {"BUCKET_ENDPOINT": store.endpoint, "BUCKET_KEY": store.key, "BUCKET_SECRET": store.secret}
    server.modal("deploy", "buckets.py", timeout=400, **environment)
    env = server.env
    credentials = (env["MODAL_TOKEN_ID"], env["MODAL_TOKEN_SECRET"])
    with Client(env["MODAL_SERVER_URL"], api_pb2.CLIENT_TYPE_CLIENT, credentials) as client:
        yield client


@pytest.fixture(scope="module")
def client(sandboxes: RunningServer, store: Store) -> Iterator[Client]:
    with client_of(sandboxes, store) as client:
        yield client


@pytest.fixture(scope="module")
def function(client: Client) -> Callable[[str], modal.Function]:
    return lambda name: modal.Function.from_name("buckets", name, client=client)


def mounts_of(server: RunningServer) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if f"{server.data}/run/buckets" in line]


def rclones_of(server: RunningServer) -> list[psutil.Process]:
    found = psutil.process_iter(["name", "cmdline"])
    return [p for p in found if p.info["name"] == "rclone" and str(server.data) in " ".join(p.info["cmdline"] or [])]


def eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@needs_fuse
def test_code_reads_and_writes_a_bucket(
    function: Callable[[str], modal.Function], store: Store, sandboxes: RunningServer
) -> None:
    work = function("work")
    listing, part, size, tail = work.remote("read")
    assert listing == ["doomed", "moving", "part", "part/data.bin", "replaced", "top.txt"]
    assert part == ["data.bin"] and size == 1 << 20 and tail == "fdfeff"
    assert work.remote("write") == ["moved", "new", "part", "replaced", "top.txt"]
    large = b"".join(bytes([n]) * (1 << 20) for n in range(12))
    eventually(lambda: store.get("new/deep/a.txt") == b"from a sandbox" and store.get("part/large.bin") == large)
    work.remote("change")
    eventually(lambda: store.get("replaced") == b"second third")
    assert {"moved", "top.txt"} <= store.names() and not {"doomed", "moving"} & store.names()
    assert work.remote("write_where_it_is_forbidden") == [errno.EROFS, errno.EROFS]
    store.s3.put_object(Bucket=_BUCKET, Key="part/late", Body=b"late")
    eventually(lambda: "late" in work.remote("read")[1])


@needs_fuse
def test_credentials_are_nowhere(
    function: Callable[[str], modal.Function], store: Store, sandboxes: RunningServer
) -> None:
    names, environment = function("work").remote("environment")
    assert names == [] and store.secret not in environment and store.key not in environment
    running = rclones_of(sandboxes)
    assert len(running) >= 3
    for process in running:
        shown = " ".join(process.cmdline()) + str(process.environ())
        assert store.secret not in shown and store.key not in shown
    for path in sandboxes.data.rglob("*"):
        if path.is_file() and (path.suffix in (".log", ".json") or path.name.startswith("stoker.db")):
            assert store.secret.encode() not in path.read_bytes(), path


@needs_fuse
def test_a_bucket_that_refuses_says_so_at_once(function: Callable[[str], modal.Function]) -> None:
    with pytest.raises(Exception, match=r"'stoker-test' at http.* refuses: InvalidAccessKeyId.* Check the keys"):
        function("wrong_key").remote()
    with pytest.raises(Exception, match="no bucket 'no-such-bucket'"):
        function("no_bucket").remote()


@needs_fuse
def test_network_files_are_shared_with_containers(function: Callable[[str], modal.Function], client: Client) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nfs = modal.NetworkFileSystem.from_name("shared-files", client=client)
        nfs.write_file("from-outside", io.BytesIO(b"outside"))
        assert function("work").remote("share") == "outside"
        assert b"".join(nfs.read_file("sub/from-inside")) == b"inside"


@needs_fuse
def test_nothing_is_left_when_the_containers_end(sandboxes: RunningServer, client: Client, store: Store) -> None:
    modal.Function.from_name("buckets", "work", client=client).remote("write_at_the_end")
    assert mounts_of(sandboxes)
    sandboxes.modal("app", "stop", "buckets", "--yes")
    directory = sandboxes.data / "run" / "buckets"
    eventually(lambda: not mounts_of(sandboxes) and not rclones_of(sandboxes) and not list(directory.iterdir()))
    assert store.get("left-at-the-end") == b"e" * (8 << 20), "what was written last is not lost"


@needs_fuse
def test_a_killed_server_leaves_nothing_to_the_next(store: Store, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    server = start_server(tmp_path / "data", "process")
    try:
        with client_of(server, store) as client:
            modal.Function.from_name("buckets", "work", client=client).spawn("wait")
            eventually(lambda: len(mounts_of(server)) == 3)
        os.kill(server.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(server.pid)] if psutil.pid_exists(server.pid) else [], 10)
        server = start_server(tmp_path / "data", "process")
        server.modal("app", "stop", "buckets", "--yes")
        eventually(lambda: not mounts_of(server) and not rclones_of(server))
        assert "top.txt" in store.names(), "unmounting removes no object"
    finally:
        stop_server(server)


class Rclone:
    """One that lives until it is told to end."""

    returncode: int | None = None

    async def wait(self) -> None:
        self.returncode = 0

    def terminate(self) -> None:
        raise AssertionError("it ends by itself")

    kill = terminate


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are looked up as Linux shows them")
def test_uploads_that_take_long_keep_no_thread_from_others(tmp_path: Path) -> None:
    """Each end of a container may wait minutes for its uploads, and all other work on files needs the same few threads."""

    async def scenario() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        mounts = [bucket_mounts._Mount(BucketMount("bucket", "/x"), tmp_path / str(n)) for n in range(3)]
        notes = [tmp_path / f"{n}-cache" / "vfsMeta" / "file" for n in range(3)]
        for mount, note in zip(mounts, notes, strict=True):
            note.parent.mkdir(parents=True)
            note.write_text('{"Dirty": true}')
            mount._process = Rclone()  # type: ignore[assignment]
        ends = [asyncio.ensure_future(mount.end()) for mount in mounts]
        for _ in range(5):
            await asyncio.wait_for(asyncio.to_thread(tmp_path.exists), 10)
        assert not any(end.done() for end in ends)
        for note in notes:
            note.write_text("{}")
        await asyncio.wait_for(asyncio.gather(*ends), 30)

    asyncio.run(scenario())


def test_a_start_that_is_called_off_twice_leaves_no_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would end the rclone that stays: its container never was."""

    async def scenario() -> None:
        ending, go_on = asyncio.Event(), asyncio.Event()
        ended: list[Path] = []

        async def start(mount: Any, say: Any) -> None:
            await asyncio.Event().wait()

        async def end(mount: Any) -> None:
            ending.set()
            await go_on.wait()
            ended.append(mount.path)

        monkeypatch.setattr(bucket_mounts._Mount, "start", start)
        monkeypatch.setattr(bucket_mounts._Mount, "end", end)
        mounts = bucket_mounts.BucketMounts(tmp_path)
        mounting = asyncio.ensure_future(mounts.mount("ta-1", [BucketMount("bucket", "/x")], print))
        await asyncio.sleep(0)
        mounting.cancel()
        await ending.wait()
        mounting.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await mounting
        assert ended == [tmp_path / "ta-1" / "0"]

    asyncio.run(scenario())


def test_mounts_and_processes_are_told_from_those_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_bytes(
        "x /d\u00e4ta\\040x/run/buckets/ta-1/0 fuse rw 0 0\ny /caf\u00e9 ext4 rw 0 0\n".encode()
        + b"z /\xff tmpfs rw 0 0\n"
    )
    monkeypatch.setattr(linux, "MOUNTS", table)
    ours = Path("/d\u00e4ta x/run/buckets")
    assert bucket_mounts._mounted_below(ours) == [f"{ours}/ta-1/0"]

    def rclone(place: str) -> Any:
        command = ["rclone", "mount", "bucket:b/", place, f"--cache-dir={place}-cache"]
        return SimpleNamespace(info={"name": "rclone", "cmdline": command})

    found = [rclone("/data/run/buckets/ta-1/0"), rclone("/mnt/data/run/buckets/ta-1/0")]
    monkeypatch.setattr(psutil, "process_iter", lambda attributes: iter(found))
    assert bucket_mounts._rclones(Path("/data/run/buckets")) == found[:1]


def test_what_cannot_be_a_bucket() -> None:
    for wrong in (
        {"name": "s3://bucket"},
        {"name": "a/b"},
        {"endpoint": "ftp://host"},
        {"endpoint": "http://host\naccess_key_id = x"},
        {"prefix": "/absolute/"},
        {"prefix": "../other/"},
        {"credentials": Credentials("key", "two\nlines")},
        {"credentials": Credentials("key", "secret", region="eu-west-1\ntype = local")},
    ):
        with pytest.raises(Exception, match=r"bucket|key_prefix") as caught:
            BucketMount(**({"name": "bucket", "mount_path": "/x"} | wrong))  # type: ignore[arg-type]
        assert "two" not in str(caught.value)
    with pytest.raises(Exception, match="no key AWS_SECRET_ACCESS_KEY") as caught:
        credentials_from("s3", {"AWS_ACCESS_KEY_ID": "hidden"})
    assert "hidden" not in str(caught.value)
    found = BucketMount(
        "b-ucket",
        "/x",
        kind="gcp",
        credentials=credentials_from("gcp", {"GOOGLE_ACCESS_KEY_ID": "i", "GOOGLE_ACCESS_KEY_SECRET": "s"}),
    )
    assert "access_key_id = i\n" in found.rclone_config() and "i" not in repr(found.credentials).removeprefix(
        "Credentials(region='')"
    )


@pytest.mark.skipif(bool(bucket_mounts.missing_parts()), reason="without rclone or FUSE no bucket is mounted at all")
def test_buckets_of_the_machine_itself_are_mounted_when_it_says_so(tmp_path: Path, store: Store) -> None:
    """The server asks for them, with the network of the host."""
    place = store.endpoint.removeprefix("http://")
    port = place.partition(":")[2]
    own = socket.gethostbyname(socket.gethostname())

    def check(endpoint: str, *allowed: str) -> None:
        bucket = BucketMount(_BUCKET, "/x", endpoint=endpoint, credentials=Credentials(store.key, store.secret))
        asyncio.run(bucket_mounts.BucketMounts(tmp_path, allowed).check(bucket))

    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"127.9.9.9:{port}", f"[::1]:{port}", f"{own}:{port}"):
        with pytest.raises(FailedPrecondition, match="local_bucket_endpoints"):
            check(f"http://{host}")
    for metadata in (
        "http://169.254.169.254",
        "http://0.0.0.0:1",
        "http://[::ffff:127.0.0.1]:1",
        "http://2130706433:1",
    ):
        with pytest.raises(FailedPrecondition, match="local_bucket_endpoints"):
            check(metadata)
    check(store.endpoint, place)
    check(store.endpoint, "127.0.0.1")
