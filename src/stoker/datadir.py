"""The data directory: where everything lies, who holds it, and how other commands find the server that does."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stoker.errors import Damaged, FailedPrecondition, PermissionDenied


@dataclass(frozen=True)
class ServerInfo:
    """What a running server tells the other commands. `started_at` in seconds since the epoch."""

    pid: int
    url: str
    http_url: str
    started_at: float
    runtime: str


class DataDir:
    """One directory, held by at most one server at a time.

    The lock is an flock on `lock_file`, so the kernel frees it however the server ends. The directory itself serves as the gate through
    which everyone goes to try the lock: so a command that only looks is never taken for a server, and whoever finds the lock taken
    also finds the holder's name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "stoker.db"
        self.blobs = path / "blobs"
        self.volumes = path / "volumes"
        self.images = path / "images"
        self.clients = path / "clients"
        self.mounts = path / "mounts"
        self.files = path / "files"
        self.snapshots = path / "snapshots"
        self.run = path / "run"
        self.logs = path / "logs"
        self.server_log = self.logs / "server.log"
        self.signing_key = path / "signing.key"
        self.identity_key = path / "identity.key"
        self.token_file = path / "token.json"
        self.server_file = path / "server.json"
        self.container_port_file = path / "container-port.json"
        self.lock_file = path / "server.lock"
        self._lock: int | None = None

    def create(self) -> None:
        """Makes the directory and its parts, readable by the owner alone. Raises PermissionDenied or FailedPrecondition."""
        parts = (
            *(self.blobs, self.volumes, self.images, self.clients, self.mounts, self.files),
            *(self.snapshots, self.run, self.logs),
        )
        with self._explained():
            for directory in (self.path, *parts):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_uid == os.geteuid():
                self.path.chmod(0o700)
                # Of servers before this one. Whoever copies a file by hand copies its mode as well.
                for path in (*self.path.glob(f"{self.database.name}*"), *self.path.glob("*.key"), self.server_log):
                    if path.is_file():
                        path.chmod(0o600)

    def open_log(self) -> BinaryIO:
        """The server's log, to be appended to."""
        return open(self.server_log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))

    def check_readable(self) -> None:
        """Raises PermissionDenied or FailedPrecondition when this process cannot look into it."""
        with self._explained():
            os.listdir(self.path)

    def check_database(self) -> None:
        """Raises Damaged when the database is empty though the directory has been in use: a server would begin anew without a word."""
        log = self.database.with_name(f"{self.database.name}-wal")
        emptied = self.database.exists() and not self.database.stat().st_size and self.token_file.exists()
        lost = not self.database.exists() and log.exists() and log.stat().st_size
        if emptied or lost:
            raise Damaged(
                f"The database {self.database} is {'empty' if emptied else 'gone'}, though this directory has been in use. Restore it from a "
                "backup, as docs/operate.md says under Backup. To begin anew, move the directory away."
            )

    def lock(self) -> None:
        """Takes the directory for this process. Raises FailedPrecondition that names the holder when another server has it."""
        with self._explained(), self._gate():
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 10_000).decode(errors="replace").strip()
                os.close(descriptor)
                raise FailedPrecondition(
                    f"Another server already uses {self.path} ({holder}). Stop it with "
                    f"`stoker down --data {shlex.quote(str(self.path))}`, or give this one another directory with --data."
                ) from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"pid {os.getpid()}: {_command_line()}\n".encode())
            self.server_file.unlink(missing_ok=True)
            self._lock = descriptor

    def unlock(self) -> None:
        """Gives the directory back. No error when it is not held."""
        if self._lock is not None:
            self.server_file.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def locked(self) -> bool:
        """Whether some server, of this process or another, holds the directory."""
        if not self.lock_file.exists():
            return False
        with self._explained(), self._gate():
            descriptor = os.open(self.lock_file, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
            return False

    def holder(self) -> int | None:
        """The process that holds the directory, be it still starting or already stopping; None when nobody does."""
        if not self.locked():
            return None
        match = re.match(r"pid (\d+):", self.lock_file.read_text(errors="replace"))
        return int(match.group(1)) if match else None

    def write_server(self, info: ServerInfo) -> None:
        """Announces the running server. Only its holder calls this."""
        _write_private(self.server_file, asdict(info))

    def read_server(self) -> ServerInfo | None:
        """The server that holds the directory and is ready to serve, or None."""
        document = self._read(self.server_file)
        if document is None or not self.locked():
            return None
        try:
            return ServerInfo(**document)
        except TypeError:
            raise FailedPrecondition(
                f"{self.server_file} was written by another version of Stoker. Restart the server with this version."
            ) from None

    def write_token(self, token_id: str, secret: str) -> None:
        """Keeps the local administrator's credential, which `stoker env`, `run` and `status` use."""
        _write_private(self.token_file, {"id": token_id, "secret": secret})

    def read_token(self) -> tuple[str, str] | None:
        """(id, secret) of the local administrator, or None before the first start of a server."""
        document = self._read(self.token_file)
        return None if document is None else (str(document["id"]), str(document["secret"]))

    def write_container_port(self, port: int) -> None:
        """Remembers on which port sandboxes reach the server, for its next start."""
        _write_private(self.container_port_file, {"port": port})

    def read_container_port(self) -> int | None:
        """The port that sandboxes reached at the last start, or None before the first."""
        document = self._read(self.container_port_file)
        port = None if document is None else document.get("port")
        return port if isinstance(port, int) and 0 < port < 1 << 16 else None

    def _read(self, path: Path) -> dict[str, Any] | None:
        with self._explained():
            try:
                text = path.read_text()
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            document: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise FailedPrecondition(f"{path} is not the JSON document it should be ({error}). Remove it.") from None
        return document

    @contextmanager
    def _gate(self) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise PermissionDenied(
                f"No permission for {error.filename} in the data directory. Run the command as the user the server runs as "
                "(with sudo if that is root), or choose another directory with --data."
            ) from None
        except (FileExistsError, NotADirectoryError) as error:
            raise FailedPrecondition(
                f"{error.filename} is not a directory. Remove it, or choose another data directory with --data."
            ) from None
        except OSError as error:
            raise FailedPrecondition(
                f"The data directory {self.path} cannot be used: {error.strerror} ({error.filename}). "
                "Free or repair it, or choose another directory with --data."
            ) from None


def _command_line() -> str:
    program = Path(sys.argv[0])
    name = "stoker" if program.suffix == ".py" else program.name
    return shlex.join([name or "python", *sys.argv[1:]])


def _write_private(path: Path, document: dict[str, Any]) -> None:
    """Replaces a file in one step; at no moment can another user read it, nor anyone half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
