"""What the processes of a container hold open, as seen from inside: outside of a sandbox a file that was closed looks as open as any."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stoker.runtime.commands import hear
from stoker.runtime.open_files import is_below

_SECONDS = 20.0
_MOST_BYTES = 8 << 20
_MOST_NAME, _MOST_PATH = 40, 200  # characters of what a container says of itself that people are shown

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Endpoint:
    """One end of a socket."""

    host: Address
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.host.version == 4 else f"[{self.host}]:{self.port}"


@dataclass(frozen=True)
class Socket:
    """protocol: tcp, udp, or other, of which nothing but the holder is known. state: as in /proc/net/tcp. A `remote` of port 0 at an unspecified host: none.
    holder: the process, in words."""

    protocol: str
    local: Endpoint
    remote: Endpoint
    state: int
    holder: str


@dataclass(frozen=True)
class OpenFile:
    """path: inside the container. replaced: another file is at its path now. writable: the holder may change it through what it has open."""

    path: str
    holder: str
    deleted: bool
    replaced: bool
    writable: bool
    mapped: bool
    directory: bool

    @property
    def shown(self) -> str:
        return shown_path(self.path)

    def is_below(self, places: Iterable[str]) -> bool:
        return is_below(self.path, places)


@dataclass(frozen=True)
class Inspection:
    sockets: tuple[Socket, ...] = ()
    files: tuple[OpenFile, ...] = ()


_NOWHERE = Endpoint(ipaddress.IPv4Address(0), 0)


def shown_path(path: str) -> str:
    """For people, however long it is and whatever is in it: its end."""
    return _legible(path if len(path) <= _MOST_PATH else f"...{path[-_MOST_PATH:]}")


async def inspect(execute: Sequence[str], places: Sequence[str]) -> Inspection | None:
    """Lists sockets, the open files at or below `places`, and those that were deleted. None when the container could not be asked: it has no Python, or does not answer.

    execute: the words before a command that is to run in the container, as root with CAP_SYS_PTRACE, without which other processes' files cannot be seen."""
    said = await hear((*execute, "python", "-I", "-S", "-c", _program(), *places), _SECONDS, _MOST_BYTES)
    try:
        return _parsed(json.loads(said)) if said else None
    except (ValueError, TypeError, LookupError, AttributeError):
        return None  # another program by the name of python


def _parsed(document: dict[str, Any]) -> Inspection:
    names = document["processes"]

    def holder(pid: str) -> str:
        return f"{_printable(names.get(pid, ''))} (process {int(pid)})" if pid else "a process"

    sockets = [
        Socket(protocol.rstrip("6"), _endpoint(local), _endpoint(remote), int(state), holder(pid))
        for protocol, local, remote, state, pid in document["sockets"]
    ]
    files = [OpenFile(str(path), holder(pid), *map(bool, flags)) for path, pid, *flags in document["files"]]
    return Inspection(tuple(sockets), tuple(files))


def _endpoint(text: str) -> Endpoint:
    """From hexadecimal words of four bytes in the machine's order, such as 0100007F:1F90."""
    if not text:
        return _NOWHERE
    digits, _, port = text.partition(":")
    packed = b"".join(bytes.fromhex(digits[i : i + 8])[::-1] for i in range(0, len(digits), 8))
    host = ipaddress.ip_address(packed)
    mapped = host.ipv4_mapped if host.version == 6 else None
    return Endpoint(mapped or host, int(port, 16))


def _printable(name: str) -> str:
    return _legible(str(name)[:_MOST_NAME]) or "a program"


def _legible(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


@lru_cache(maxsize=1)
def _program() -> str:
    return Path(__file__).with_name("inspection_program.py").read_text()
