"""The buckets that containers mount: an rclone per mount, on the host, bound into the container, gone when the container has ended.

Credentials reach rclone through a file in memory that has no name; neither its command line nor its environment has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import obstore
import psutil
from obstore import exceptions
from obstore.store import S3Store

from stoker import oom
from stoker.aio.cancelling import finished
from stoker.errors import FailedPrecondition, Unavailable
from stoker.nodes.buckets import BucketMount
from stoker.runtime import linux
from stoker.runtime.host_services import is_here

_START_LIMIT = 20.0  # seconds
_END_LIMIT = 5.0
_UPLOAD_LIMIT = 600.0
_SWEEP_LIMIT = 30.0
_CHECK_LIMIT = 10.0
_LOOK_AGAIN = 0.05
_FUSE = Path("/dev/fuse")
_OPTIONS = (
    "--vfs-cache-mode=writes",  # gVisor opens what it creates a second time, which a mere stream cannot serve
    "--vfs-write-back=0s",  # the upload begins with `close`
    "--vfs-cache-max-age=10s",  # uploaded files leave the disk
    "--vfs-cache-poll-interval=10s",
    "--dir-cache-time=1s",
    "--attr-timeout=1s",
    "--poll-interval=0",
    "--use-server-modtime",  # else every entry of a listing costs a request
    "--low-level-retries=3",
    "--retries=1",
    "--contimeout=10s",
    "--allow-other",
    "--log-level=NOTICE",
)

_REFUSALS = (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError)
_PASSING = (
    "InternalError",
    "SlowDown",
    "ServiceUnavailable",
    "RequestTimeout",
)  # answers of a store that may be others soon

Say = Callable[[str], None]


class BucketMounts:
    """All mounts of one server, in `directory`, which nothing else uses."""

    def __init__(self, directory: Path, local_endpoints: Collection[str] = ()) -> None:
        """local_endpoints: servers (host or host:port) on this machine whose buckets may be mounted."""
        self._directory = directory
        self._local_endpoints = frozenset(local_endpoints)
        self._mounted: dict[str, list[_Mount]] = {}

    async def open(self) -> None:
        """Removes what a killed server left, after its containers are gone."""
        await asyncio.to_thread(_sweep, self._directory)

    async def check(self, bucket: BucketMount) -> None:
        """Raises FailedPrecondition when this machine cannot mount or the bucket refuses, Unavailable when it cannot be reached."""
        obstacle = missing_parts()
        if obstacle:
            raise FailedPrecondition(f"A CloudBucketMount cannot be mounted on this server: {obstacle}.")
        if bucket.endpoint:
            await self._check_endpoint(bucket)
        options: Any = bucket.store_options()
        store = S3Store(
            bucket.name,
            config=options,
            client_options={"allow_http": True, "timeout": timedelta(seconds=_CHECK_LIMIT)},
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=_CHECK_LIMIT)},
        )
        try:
            async for _ in obstore.list(store, prefix=bucket.prefix or None, chunk_size=1):
                break
        except (exceptions.BaseError, OSError) as error:
            text = str(error)
            code = _tagged(text, "Code")
            if code == "NoSuchBucket":
                raise FailedPrecondition(f"There is no bucket {bucket.name!r} at {bucket.host}.") from None
            if (code and code not in _PASSING) or isinstance(error, _REFUSALS) or "redirect" in text.lower():
                raise FailedPrecondition(_refusal(bucket, text)) from None
            raise Unavailable(
                f"The bucket {bucket.name!r} at {bucket.host} cannot be reached: {_brief(text)}."
            ) from None

    async def _check_endpoint(self, bucket: BucketMount) -> None:
        """The server asks for a bucket, so an app could have it talk to what only the machine itself may reach."""
        place = urlsplit(bucket.endpoint)
        if {place.netloc.rpartition("@")[2], place.hostname} & self._local_endpoints:
            return
        if await asyncio.to_thread(is_here, place.hostname or ""):
            raise FailedPrecondition(
                f"The endpoint {bucket.endpoint} of the bucket {bucket.name!r} is this machine itself. If apps may mount buckets of it, "
                f'name it in the server\'s settings: local_bucket_endpoints = ["{place.netloc.rpartition("@")[2]}"].'
            )

    async def mount(self, task_id: str, buckets: Sequence[BucketMount], say: Say) -> list[Path]:
        """Mounts the buckets of a container; returns their directories, in order. say: receives what goes wrong later, as lines.

        Raises FailedPrecondition; nothing is mounted then."""
        mounts = self._mounted.setdefault(task_id, [])
        try:
            for number, bucket in enumerate(buckets):
                mount = _Mount(bucket, self._directory / task_id / str(number))
                mounts.append(mount)
                await mount.start(say)
        except BaseException:
            await finished(self.unmount(task_id))
            raise
        return [mount.path for mount in mounts]

    async def unmount(self, task_id: str) -> None:
        """After the container's end. No error when it had none."""
        mounts = self._mounted.pop(task_id, [])
        for mount in mounts:
            await mount.end()
        if mounts:
            with contextlib.suppress(OSError):
                (self._directory / task_id).rmdir()

    async def close(self) -> None:
        for task_id in list(self._mounted):
            await self.unmount(task_id)


def cache_of(place: Path) -> Path:
    """Where the files lie that are written to the bucket that is mounted at `place`, until they are uploaded."""
    return place.with_name(f"{place.name}-cache")


def missing_parts() -> str:
    """What this machine lacks for mounting buckets, a clause; empty when it lacks nothing."""
    if sys.platform != "linux":
        return "that needs Linux"
    packages = [
        package for program, package in (("rclone", "rclone"), ("fusermount3", "fuse3")) if not shutil.which(program)
    ]
    if packages:
        return f"it needs the package{'s' if len(packages) > 1 else ''} {' and '.join(packages)} (`apt install {' '.join(packages)}`)"
    if not _FUSE.exists():
        return f"there is no {_FUSE}; load the kernel module fuse, or give the server's own container that device"
    return ""


class _Mount:
    """One rclone with its directory."""

    def __init__(self, bucket: BucketMount, path: Path) -> None:
        self.path = path
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._cache = cache_of(path)
        self._bucket = bucket
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self, say: Say) -> None:
        self.path.mkdir(mode=0o755, parents=True)
        said: list[str] = []
        self._say = say
        told = asyncio.Event()
        with _nameless_file(self._bucket.rclone_config()) as config:
            command = ["rclone", "mount", self._bucket.source, str(self.path), f"--config=/dev/fd/{config}", *_OPTIONS]
            command.append("--read-only" if self._bucket.read_only else f"--cache-dir={self._cache}")
            self._process = await asyncio.create_subprocess_exec(
                *oom.scored(oom.HELPERS),
                *command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[config],
                env={
                    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
                    "HOME": "/nonexistent",
                    "NOTIFY_SOCKET": self._listen(told),
                },
                start_new_session=True,
            )
            self._reader = asyncio.ensure_future(self._read(said, say))
            telling = asyncio.ensure_future(told.wait())
            try:
                await asyncio.wait({telling, self._reader}, timeout=_START_LIMIT, return_when=asyncio.FIRST_COMPLETED)
            finally:
                telling.cancel()
        if not told.is_set():
            detail = said[-1] if said else f"nothing happened for {_START_LIMIT:.0f} seconds"
            raise FailedPrecondition(f"The bucket {self._bucket.name!r} was not mounted: {detail}")

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            lost = await self._not_uploaded(self._process)
            if lost:
                self._say(
                    f"{self._bucket.mount_path}: not uploaded within {_UPLOAD_LIMIT:.0f} s: {', '.join(lost[:10])}\n"
                )
        await asyncio.to_thread(_unmount, self.path)
        if self._process is not None:
            # It ends by itself; only a copy of the mount in somebody else's namespace keeps it.
            for stop in (None, self._process.terminate, self._process.kill):
                with contextlib.suppress(ProcessLookupError):
                    if stop is not None:
                        stop()
                with anyio.move_on_after(_END_LIMIT):
                    await self._process.wait()
                    break
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=1)
        asyncio.get_running_loop().remove_reader(self._notices)
        self._notices.close()
        with contextlib.suppress(OSError):
            self.path.rmdir()  # never more than the empty directory: a mount that stayed must not be emptied
        await asyncio.to_thread(shutil.rmtree, self._cache, ignore_errors=True)

    async def _not_uploaded(self, rclone: asyncio.subprocess.Process) -> list[str]:
        """As `_await_uploads`, while rclone lives. It holds no thread while it waits: there are few, and the whole server uses them."""
        deadline = time.monotonic() + _UPLOAD_LIMIT
        while waiting := await asyncio.to_thread(_dirty, self._cache):
            if rclone.returncode is not None or time.monotonic() > deadline:
                break
            await asyncio.sleep(_LOOK_AGAIN)
        return waiting

    def _listen(self, told: asyncio.Event) -> str:
        """The address at which rclone says what it would say to systemd, over its whole life; one without a file."""
        name = f"stoker-bucket-{secrets.token_hex(12)}"
        self._notices.setblocking(False)
        self._notices.bind(f"\0{name}")

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                if b"READY=1" in self._notices.recv(4096):
                    told.set()

        asyncio.get_running_loop().add_reader(self._notices, read)
        return f"@{name}"

    async def _read(self, said: list[str], say: Say) -> None:
        """Passes on what rclone says, until it ends."""
        assert self._process is not None and self._process.stdout is not None
        async for raw in self._process.stdout:
            line = self._without_credentials(raw.decode(errors="replace").strip())
            said[:] = [line]
            say(f"{self._bucket.mount_path}: {line}\n")

    def _without_credentials(self, line: str) -> str:
        found = self._bucket.credentials
        for value in (found.secret, found.session_token, found.key_id):
            line = line.replace(value, "***") if value else line
        return line


def _refusal(bucket: BucketMount, text: str) -> str:
    advice = (
        "Check the keys in its secret" if bucket.credentials.key_id else "Give it a secret with keys that may read it"
    )
    if not bucket.endpoint and not bucket.credentials.region:
        advice += ", and add AWS_REGION to the secret if the bucket is not in us-east-1"
    return f"The bucket {bucket.name!r} at {bucket.host} refuses: {_brief(text)}. {advice}."


def _brief(text: str) -> str:
    """The store's own code and message, or the first line of an error."""
    code = _tagged(text, "Code")
    if code:
        return f"{code}, {_tagged(text, 'Message')}".rstrip(", .")
    return " ".join(text.split("Debug source")[0].split())[:300].rstrip(".")


def _tagged(text: str, tag: str) -> str:
    return text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]


@contextlib.contextmanager
def _nameless_file(text: str) -> Iterator[int]:
    descriptor = os.memfd_create("stoker-bucket", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _await_uploads(cache: Path, limit: float) -> list[str]:
    """Waits until rclone has uploaded all that was written; returns the files that it has not. It tells nobody, but notes in files
    beside its cache what is still to be done."""
    deadline = time.monotonic() + limit
    while (waiting := _dirty(cache)) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)
    return waiting


def _dirty(cache: Path) -> list[str]:
    found = []
    for path in (cache / "vfsMeta").rglob("*"):
        with contextlib.suppress(OSError, ValueError):
            if path.is_file() and json.loads(path.read_text()).get("Dirty"):
                found.append(path.name)
    return found


def _mounted_below(directory: Path) -> list[str]:
    return [place for place in linux.mount_points() if Path(place).is_relative_to(directory)]


def _unmount(path: Path) -> None:
    for place in _mounted_below(path):
        if subprocess.run(["umount", place], capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", place], capture_output=True)


def _sweep(directory: Path) -> None:
    if sys.platform != "linux" or not directory.exists():
        return
    for cache in directory.glob("*/*-cache"):
        _await_uploads(cache, _SWEEP_LIMIT if _rclones(directory) else 0)
    _unmount(directory)
    for process in _rclones(directory):
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(_END_LIMIT)
    for path in directory.glob("*/*-cache"):
        shutil.rmtree(path, ignore_errors=True)
    for path in sorted(directory.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()


def _rclones(directory: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["name", "cmdline"])
    return [
        process
        for process in found
        if process.info["name"] == "rclone"
        and any(word.startswith(f"{directory}/") for word in process.info["cmdline"] or [])
    ]
