"""What a container holds open that gVisor cannot save, or saves and cannot restore: found before it is tried, for a try cuts connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stoker.runtime.inspection import Inspection, OpenFile, Socket

_Thing = TypeVar("_Thing")
_ESTABLISHED, _CONNECTING, _ACCEPTING = 1, 2, 3
_SQLITE = {"-wal": "in WAL mode", "-shm": "in WAL mode", "-journal": "with an unfinished transaction"}
_LATER = "in @modal.enter(), after the snapshot"


@dataclass(frozen=True)
class Obstacle:
    """reason: sentences that end with the cure. lasting: the next container of the same code would have it as well."""

    reason: str
    lasting: bool = True


def obstacles(found: Inspection, volumes: Sequence[str]) -> list[Obstacle]:
    """One of each kind. volumes: where in the container Volumes are mounted, which others change."""
    kinds: list[Iterator[Obstacle]] = [
        _of(found.sockets, _own_connection),
        _of(found.sockets, _unfinished_connection),
        _of(found.sockets, _connected_udp),
        _of(found.files, _deleted),
        _of([file for file in found.files if file.is_below(volumes)], _sqlite),
        _of([file for file in found.files if file.is_below(volumes)], _replaced),
    ]
    return [obstacle for kind in kinds for obstacle in [next(kind, None)] if obstacle is not None]


def _of(things: Sequence[_Thing], look: Callable[[_Thing], Obstacle | None]) -> Iterator[Obstacle]:
    return (obstacle for obstacle in map(look, things) if obstacle is not None)


def _own_connection(socket: Socket) -> Obstacle | None:
    """Restored containers have other addresses. Connections to elsewhere are cut, which their programs notice and mend; one that lives on a
    connection to itself, as Ray does, is broken by that."""
    within = socket.local.host == socket.remote.host and not socket.local.host.is_loopback
    if socket.protocol != "tcp" or not within or socket.state not in (_ESTABLISHED, _ACCEPTING):
        return None
    return Obstacle(
        f"{socket.holder} has a connection to {socket.remote}, the container's own network address, and restored containers have other addresses. "
        f"Connect to 127.0.0.1, or start what connects (such as Ray) {_LATER}."
    )


def _unfinished_connection(socket: Socket) -> Obstacle | None:
    if socket.protocol != "tcp" or socket.state != _CONNECTING:
        return None
    return Obstacle(
        f"{socket.holder} was connecting to another machine, which did not answer yet. Connect {_LATER}.", lasting=False
    )


def _connected_udp(socket: Socket) -> Obstacle | None:
    if socket.protocol != "udp" or not socket.remote.port or socket.remote.host.is_loopback:
        return None
    return Obstacle(
        f"{socket.holder} has a UDP socket that is connected to {socket.remote}, as clients of statsd have, and gVisor cannot restore these. "
        f"Open it {_LATER}."
    )


def _deleted(file: OpenFile) -> Obstacle | None:
    if not file.deleted:
        return None
    return Obstacle(
        f"{file.holder} has the file {file.shown} open, which was deleted or replaced, and gVisor cannot save that. Close it before the snapshot, or put it "
        f"into /dev/shm (memory)."
    )


def _sqlite(file: OpenFile) -> Obstacle | None:
    """SQLite removes these files, and restored containers would look for them."""
    for ending, how in _SQLITE.items():
        if file.path.endswith(ending):
            return Obstacle(
                f"{file.holder} has the SQLite database {file.shown.removesuffix(ending)} open on a Volume, {how}: restored containers would not "
                f"find {file.shown}. Open the database {_LATER}, or leave WAL mode (PRAGMA journal_mode=DELETE) and end the transaction."
            )
    return None


def _replaced(file: OpenFile) -> Obstacle | None:
    if not file.replaced:
        return None
    return Obstacle(f"The file {file.shown} was replaced while {file.holder} had it open.", lasting=False)
