"""Buckets mounted in functions. The endpoint and the keys come from the environment of whoever deploys."""

import mmap
import os
from pathlib import Path
from typing import Any

import modal

app = modal.App("buckets")
nfs = modal.NetworkFileSystem.from_name("shared-files", create_if_missing=True)
_ENDPOINT = os.environ.get("BUCKET_ENDPOINT", "http://127.0.0.1:1")


def bucket(key: str = "", **options: Any) -> modal.CloudBucketMount:
    values = {
        "AWS_ACCESS_KEY_ID": key or os.environ.get("BUCKET_KEY", ""),
        "AWS_SECRET_ACCESS_KEY": os.environ.get("BUCKET_SECRET", ""),
    }
    options = {"bucket_name": "stoker-test", "bucket_endpoint_url": _ENDPOINT} | options
    return modal.CloudBucketMount(secret=modal.Secret.from_dict(values), force_path_style=True, **options)


@app.function(
    volumes={"/whole": bucket(), "/part": bucket(key_prefix="part/"), "/fixed": bucket(read_only=True)},
    network_file_systems={"/nfs": nfs},
    timeout=60,
)
def work(step: str) -> Any:
    return globals()[f"_{step}"]()


@app.function(volumes={"/whole": bucket(key="AKIAWRONGWRONGWRONG1")})
def wrong_key() -> None: ...


@app.function(volumes={"/whole": bucket(bucket_name="no-such-bucket")})
def no_bucket() -> None: ...


def _read() -> Any:
    with open("/fixed/part/data.bin", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        tail = mapped[-3:]
    listing = sorted(str(p.relative_to("/whole")) for p in Path("/whole").rglob("*"))
    return [listing, os.listdir("/part"), os.path.getsize("/part/data.bin"), tail.hex()]


def _write() -> Any:
    os.makedirs("/whole/new/deep")
    Path("/whole/new/deep/a.txt").write_text("from a sandbox")
    with open("/part/large.bin", "wb") as file:
        for number in range(12):
            file.write(bytes([number]) * (1 << 20))
    os.rename("/whole/moving", "/whole/moved")
    os.remove("/whole/doomed")
    Path("/whole/replaced").write_text("second")
    return sorted(os.listdir("/whole"))


def _write_where_it_is_forbidden() -> Any:
    faults = []
    for path in ("/fixed/never", "/fixed/top.txt"):
        try:
            Path(path).write_text("x")
        except OSError as error:
            faults.append(error.errno)
    return faults


def _change() -> Any:
    with open("/whole/replaced", "a") as file:
        file.write(" third")


def _environment() -> Any:
    return [name for name in os.environ if "AWS" in name], Path("/proc/self/environ").read_text()


def _write_at_the_end() -> Any:
    Path("/whole/left-at-the-end").write_bytes(b"e" * (8 << 20))


def _share() -> Any:
    Path("/nfs/sub").mkdir(exist_ok=True)
    Path("/nfs/sub/from-inside").write_text("inside")
    return Path("/nfs/from-outside").read_text()


def _wait() -> Any:
    import time

    time.sleep(50)
