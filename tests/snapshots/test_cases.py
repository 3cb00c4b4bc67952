"""What programs have at the moment of their snapshot: real sandboxes, another machine beside them, the official client.

Some of the cases run here; all of them by `make matrix-snapshots`, which writes the table of docs/snapshots.md."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import RunningServer
from tests.peer import peer
from tests.snapshots.cases import CasesApp

ROUNDS = 2  # the first makes the snapshot, the other starts from it


@pytest.fixture(scope="module")
def app(sandboxes: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CasesApp]:
    app = CasesApp(sandboxes, "snapshot-cases", tmp_path_factory.mktemp("cases"))
    with peer() as address:
        app.deploy(address)
        yield app
        sandboxes.modal("app", "stop", "snapshot-cases", "--yes", check=False)


RESTORED = {
    "HttpConnection": "hello",
    "OpenSocket": "cut",
    "ForkPool": "9",
    "Executor": "9",
    "ForkedChild": "HELLO",
    "VolumeLog": "made",
    "DeletedMemoryFile": "hello",
    "Threads": "9",
}


def test_they_are_restored_and_answer_right(app: CasesApp) -> None:
    rounds = [app.call(*RESTORED) for _ in range(ROUNDS)]
    for number, answers in enumerate(rounds):
        assert {name: answer["answer"] for name, answer in answers.items()} == RESTORED
        started_anew = [name for name, answer in answers.items() if not answer["restored"]]
        assert number == 0 or not started_anew, [app.snapshot(name)["reason"] for name in started_anew]
    assert len({answers[name]["task"] for answers in rounds for name in RESTORED}) == ROUNDS * len(RESTORED)


REFUSED = {
    "OwnAddress": ("hello", "the container's own network address"),
    "ConnectedUdp": ("sent", "a UDP socket that is connected to"),
    "DeletedImageFile": ("kept", "has the file /etc/issue open, which was deleted"),
    "SqliteVolumeWal": ("1", "has the SQLite database /vol/wal.db open on a Volume, in WAL mode"),
}


def test_what_cannot_be_saved_answers_right_and_is_told_once(app: CasesApp) -> None:
    for _ in range(ROUNDS):
        answers = app.call(*REFUSED)
        assert {name: answer["answer"] for name, answer in answers.items()} == {n: a for n, (a, _) in REFUSED.items()}
        assert not any(answer["restored"] for answer in answers.values())
    logged = app.logged()
    for name, (_, reason) in REFUSED.items():
        snapshot = app.snapshot(name)
        assert (snapshot["state"], snapshot["failures"]) == ("dropped", 1)
        assert reason in snapshot["reason"] and "python (process 2)" in snapshot["reason"]
        assert logged.count(reason) == 1, logged


def test_a_mapped_file_that_is_replaced_has_the_snapshot_made_anew(app: CasesApp) -> None:
    first, second = (app.call("VolumeMap")["VolumeMap"] for _ in range(2))
    assert (first["answer"], second["answer"]) == ("7 7 7", "7 7 7") and second["restored"]
    old = app.snapshot("VolumeMap")["id"]
    for content in (
        bytes([9]) * 100_000,
        bytes([5]) * 10,
    ):  # of the same size, and so much shorter that old pages are gone
        app.put_weights(content)
        changed, again = (app.call("VolumeMap")["VolumeMap"] for _ in range(2))
        right = f"{content[0]} {content[0]} {content[0]}"
        assert (changed["answer"], changed["restored"]) == (right, False)
        assert (again["answer"], again["restored"]) == (right, True)
    assert app.snapshot("VolumeMap")["id"] != old
    assert app.logged().count("/vol/weights, which was open when it was made, has changed since.") == 2
