"""What is in the way of a snapshot, from what was found in a container."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from stoker.runtime.inspection import Endpoint, Inspection, OpenFile, Socket
from stoker.runtime.obstacles import obstacles
from stoker.runtime.words import in_words

NOWHERE = "0.0.0.0:0"


def endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint(ipaddress.ip_address(host.strip("[]")), int(port))


def socket(protocol: str, local: str, remote: str, state: int = 1) -> Socket:
    return Socket(protocol, endpoint(local), endpoint(remote), state, "python (process 2)")


def file(path: str, **what: Any) -> OpenFile:
    flags = dict.fromkeys(("deleted", "replaced", "writable", "mapped", "directory"), False)
    return OpenFile(path, "python (process 2)", **flags | what)


@pytest.mark.parametrize(
    "harmless",
    [
        socket("tcp", "172.21.0.9:4000", "203.0.113.2:443"),  # cut, and made anew by its program
        socket("tcp", "0.0.0.0:8000", NOWHERE, 10),
        socket("tcp", "127.0.0.1:4000", "127.0.0.1:8000"),
        socket("tcp", "[::1]:4000", "[::1]:8000"),
        socket("tcp", "172.21.0.9:4000", "172.21.0.9:8000", 6),  # over, and only remembered (TIME_WAIT)
        socket("tcp", "172.21.0.9:4000", "172.21.0.9:8000", 8),  # closed by the other end
        socket("udp", "0.0.0.0:53", NOWHERE, 7),
        socket("udp", "127.0.0.1:4000", "127.0.0.1:8125"),
        socket("other", NOWHERE, NOWHERE, 0),
        file("/vol/weights", mapped=True),
        file("/vol/log", writable=True),
        file("/root/x-wal", writable=True),
    ],
)
def test_what_survives(harmless: Socket | OpenFile) -> None:
    found = Inspection((harmless,), ()) if isinstance(harmless, Socket) else Inspection((), (harmless,))
    assert obstacles(found, ["/vol"]) == []


@pytest.mark.parametrize(
    ("harmful", "words", "lasting"),
    [
        (socket("tcp", "172.21.0.9:4000", "172.21.0.9:8000"), ("172.21.0.9:8000", "127.0.0.1", "Ray"), True),
        (socket("tcp", "172.21.0.9:4000", NOWHERE, 2), ("was connecting",), False),
        (socket("udp", "172.21.0.9:4000", "203.0.113.2:8125"), ("203.0.113.2:8125", "statsd"), True),
        (socket("udp", "172.21.0.9:4000", "172.21.0.9:8125"), ("172.21.0.9:8125",), True),
        (file("/etc/issue", deleted=True), ("/etc/issue", "deleted", "/dev/shm"), True),
        (file("/vol/a.db-wal", writable=True), ("/vol/a.db", "WAL", "journal_mode=DELETE"), True),
        (file("/vol/a.db-shm", writable=True, mapped=True), ("/vol/a.db", "WAL"), True),
        (file("/vol/a.db-journal", writable=True), ("/vol/a.db", "unfinished transaction"), True),
        (file("/vol/w", replaced=True), ("/vol/w", "replaced"), False),
    ],
)
def test_what_does_not_is_named_with_its_holder_and_the_cure(
    harmful: Socket | OpenFile, words: tuple[str, ...], lasting: bool
) -> None:
    found = Inspection((harmful,) * 3, ()) if isinstance(harmful, Socket) else Inspection((), (harmful,) * 3)
    (obstacle,) = obstacles(found, ["/vol"])
    assert "python (process 2)" in obstacle.reason and obstacle.lasting is lasting
    assert all(word in obstacle.reason for word in words), obstacle.reason


def test_a_container_cannot_fill_or_forge_the_log_by_the_names_of_its_files() -> None:
    (obstacle,) = obstacles(Inspection((), (file("/vol/" + "x\n\x1b[2J" * 100_000, deleted=True),)), ["/vol"])
    assert len(obstacle.reason) < 600 and obstacle.reason.isprintable()


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (
            'checkpoint failed: checkpointing container "ta-1": encoding error: gofer.dentry("tmp/x").beforeSave: deleted and invalidated '
            "dentries can't be restored:\ngoroutine 61 [running]:\n\tgvisor.dev/gvisor/pkg/urpc/urpc.go:451 +0x6b",
            "the file tmp/x is open and was deleted or replaced.",
        ),
        (
            'checkpoint failed: checkpointing container "ta-1": encoding error: save rejected due to unsupported networking state: endpoint '
            "cannot be saved in connected state: local 172.21.228.30:56438, remote 10.199.77.2:8080:\ngoroutine 61 [running]:",
            "a connection from 172.21.228.30:56438 to 10.199.77.2:8080 is open.",
        ),
        (
            'checkpoint failed: checkpointing container "ta-1": encoding error: runtime error: invalid memory address or nil pointer '
            "dereference:\ngoroutine 13 [running]:\ngvisor.dev/gvisor/pkg/sentry/socket/unix/transport.(*SCMConnectedEndpoint).StateTypeName(0x2)",
            "a unix socket is connected to a program outside of the container.",
        ),
        (
            'starting container: restoring container "ta-1": urpc method "containerManager.Restore" failed: EOF',
            "gVisor crashed as it read the snapshot.",
        ),
        ('checkpoint failed: checkpointing container "ta-1": something else:\n\tframe', "something else"),
        ("\n  no such container  \n\tframe", "no such container"),
        ("", ""),
    ],
)
def test_the_words_of_gvisor_are_cut_to_what_a_reader_needs(errors: str, words: str) -> None:
    assert in_words(errors) == words
