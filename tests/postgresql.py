"""A private cluster of PostgreSQL, started for the tests as a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
MISSING = "no PostgreSQL here: apt-get install postgresql (Debian), brew install postgresql (macOS)"


def find(program: str) -> str | None:
    """Debian keeps the server's programs out of the PATH."""
    return shutil.which(program) or next((str(d / program) for d in reversed(_DEBIAN) if (d / program).exists()), None)


def is_there() -> bool:
    return find("initdb") is not None and find("pg_ctl") is not None


@dataclass
class Cluster:
    """One that listens on a unix socket only. `url` lacks the name of a database."""

    url: str
    data: Path
    start: Callable[[], None]
    stop: Callable[[], None]

    @property
    def pid(self) -> int:
        """Of its first process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"db{uuid4().hex}"
        engine = sa.create_engine(self.url.format("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url.format(name)


@contextmanager
def running() -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="stoker-pg-"))
    user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        command = [str(find(program)), *arguments]
        done = subprocess.run(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **user
        )
        assert done.returncode == 0, done.stdout

    data = directory / "data"
    run("initdb", "--auth=trust", "--username=stoker", "--no-sync", "-D", str(data))
    options = f"-c listen_addresses= -c unix_socket_directories={directory} -c fsync=off"
    start = partial(run, "pg_ctl", "start", "-w", "-D", str(data), "-l", str(directory / "log"), "-o", options)
    stop = partial(run, "pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(data))
    start()
    try:
        yield Cluster(f"postgresql+psycopg://stoker@/{{}}?host={directory}", data, start, stop)
    finally:
        stop()
        shutil.rmtree(directory)
