"""`stoker fsck` on the data directory of a real server, in which something is damaged; and what the next server makes of it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.config import Settings
from stoker.fsck.examination import Examination
from tests.conftest import STOKER, start_server, stop_server

PREPARE = """
import io, os, modal
volume = modal.Volume.from_name("kept", create_if_missing=True)
with volume.batch_upload() as batch:
    batch.put_file(io.BytesIO(os.urandom(9_000_000)), "/models/weights")
echo = modal.Function.from_name("kept", "echo")
data = os.urandom(3_000_000)
call = echo.spawn(data)
assert call.get() == data
print(call.object_id)
"""
GET = """
import modal
print(len(modal.FunctionCall.from_id("{}").get()))
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory whose server has stopped; `call` in it is the id of a call with a large argument and a large result."""
    data = tmp_path_factory.mktemp("fsck") / "data"
    server = start_server(data, "process")
    try:
        server.modal("secret", "create", "kept", "KEY=value")
        server.modal("deploy", "kept.py")
        (data / "call").write_text(server.python(PREPARE).stdout.strip())
    finally:
        stop_server(server)
    yield data
    shutil.rmtree(data)


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    """A copy, as a backup is one."""
    subprocess.run(["cp", "-a", str(original), str(tmp_path / "data")], check=True)
    (tmp_path / "data" / "server.lock").unlink()
    return tmp_path / "data"


def fsck(data: Path, *flags: str, code: int, cwd: Path | None = None, timeout: float = 120) -> Any:
    done = subprocess.run(
        [*STOKER, "fsck", "--data", str(data), "--json", *flags],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd or data.parent,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, (
        f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return json.loads(done.stdout)


def blobs(data: Path) -> list[Path]:
    return sorted(p for p in (data / "blobs").iterdir() if p.name.startswith("bl-"))


def contents(data: Path) -> list[Path]:
    """Those that the app's own file is among."""
    return [p for p in sorted((data / "files").glob("??/*")) if b"Leaves something of everything" in p.read_bytes()]


def flip(path: Path, offset: int = 100) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def weights(data: Path) -> Path:
    return next((data / "volumes").glob("vo-*/models/weights"))


def replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_all_is_well_with_a_server_and_without(data: Path) -> None:
    found = fsck(data, code=0)
    assert found["problems"] == [] and found["unknown"] == {} and found["server"] is False
    checked = found["checked"]
    assert checked["blob"] == 2 and checked["volume file"] == 1 and checked["file"] > 1 and checked["mount"] >= 1
    assert (
        checked["key"] == 3 and checked["secret"] == 1 and checked["database"] == 1 and found["read_bytes"] > 15_000_000
    )
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    words = subprocess.run([*STOKER, "fsck", "--data", str(data)], capture_output=True, text=True, timeout=120)
    assert words.returncode == 0 and "Nothing is damaged." in words.stdout and "2 blobs" in words.stdout
    changed = {
        p.name for p, t in before.items() if p.exists() and p.stat().st_mtime_ns != t and "stoker.db" not in p.name
    }
    assert not changed, "it only looks"
    server = start_server(data, "process")
    try:
        assert fsck(data, code=0)["server"] is True
        refused = subprocess.run(
            [*STOKER, "fsck", "--data", str(data), "--fix"], capture_output=True, text=True, timeout=120
        )
        assert refused.returncode == 1 and "stoker down" in refused.stderr
    finally:
        stop_server(server)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    # what is done: (how, kind of the problem, words of its detail, words of what depends on it)
    "a blob is changed": (lambda d: flip(blobs(d)[0]), "blob", "another SHA-256", "the call fc-"),
    "a blob is cut": (lambda d: os.truncate(blobs(d)[0], 1_000), "blob", "has 1000 bytes", "of echo (kept)"),
    "a blob is empty": (lambda d: os.truncate(blobs(d)[0], 0), "blob", "has 0 bytes", "the call fc-"),
    "a blob is gone": (lambda d: blobs(d)[0].unlink(), "blob", "is gone", "the call fc-"),
    "a file of the app is changed": (
        lambda d: flip(contents(d)[0], 5),
        "file",
        "another SHA-256",
        "the function echo of the app kept",
    ),
    "a file of the app is gone": (
        lambda d: contents(d)[0].unlink(),
        "file",
        "is gone",
        "the function echo of the app kept",
    ),
    "a file of a tree is another": (
        lambda d: (
            next(d.glob("mounts/*/root/kept.py")).unlink(),
            next(d.glob("mounts/*/root")).joinpath("kept.py").write_text("x"),
        ),
        "mount",
        "/root/kept.py",
        "the function echo of the app kept",
    ),
    "a file of a volume is changed": (
        lambda d: flip(weights(d), 8_500_000),
        "volume file",
        "at 8388608 have another SHA-256",
        "the volume 'kept', path 'models/weights'",
    ),
    "a file of a volume is cut": (
        lambda d: os.truncate(weights(d), 5),
        "volume file",
        "has 5 bytes",
        "path 'models/weights'",
    ),
    "a file of a volume is gone": (
        lambda d: weights(d).unlink(),
        "volume file",
        "is gone",
        "the function echo of the app kept",
    ),
    "secret.key is cut": (lambda d: os.truncate(d / "secret.key", 7), "key", "must hold 32 bytes", "all secrets"),
    "secret.key is another": (lambda d: flip(d / "secret.key", 3), "key", "opens none of the 1 secrets", "all secrets"),
    "secret.key is gone": (lambda d: (d / "secret.key").unlink(), "key", "is gone", "all secrets"),
    "signing.key is empty": (lambda d: os.truncate(d / "signing.key", 0), "key", "must hold 32 bytes", "URLs"),
    "identity.key is cut": (
        lambda d: os.truncate(d / "identity.key", 100),
        "key",
        "must hold an RSA key",
        "identity tokens",
    ),
    "token.json is half": (lambda d: os.truncate(d / "token.json", 9), "record", "JSON", "stoker env"),
    "a record of an image is empty": (
        lambda d: os.truncate(next(d.glob("images/host/*.json")), 0),
        "image",
        "cannot be read",
        "the function echo of the app kept",
    ),
    "a record of an image is gone": (
        lambda d: [p.unlink() for p in d.glob("images/host/*.json")],
        "image",
        "is gone",
        "the function echo of the app kept",
    ),
    "the database is no database": (
        lambda d: replace(d / "stoker.db", b"nonsense " * 500),
        "database",
        "not a database",
        "",
    ),
    "the database is cut": (lambda d: os.truncate(d / "stoker.db", 20_000), "database", "damaged", ""),
    "the database is empty": (lambda d: os.truncate(d / "stoker.db", 0), "database", "is empty", ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_says_what_is_damaged_and_what_depends_on_it(data: Path, damage: str) -> None:
    how, kind, detail, depends = DAMAGES[damage]
    how(data)
    problems = Examination(Settings.load(data=data), lambda what, done, total: None).run().problems
    assert {problem.kind for problem in problems} <= {kind, "mount" if kind == "file" else kind}, problems
    problem = next(p for p in problems if p.kind == kind)
    assert detail in problem.detail and any(depends in line for line in problem.depends or [""]), problem
    assert problem.remedy.endswith(".")


def test_people_and_programs_can_read_it(data: Path) -> None:
    flip(blobs(data)[0])
    flip(contents(data)[0], 5)
    problems = {problem["kind"]: problem for problem in fsck(data, code=1)["problems"]}
    assert problems["blob"]["fixable"] is False and problems["file"]["fixable"] is True
    words = subprocess.run([*STOKER, "fsck", "--data", str(data)], capture_output=True, text=True, timeout=120)
    assert words.returncode == 1 and "Run `stoker fsck --fix` to heal" in words.stdout
    assert (
        "needed by an argument of the call fc-" in words.stdout or "needed by a result of the call fc-" in words.stdout
    )
    assert "the function echo of the app kept" in words.stdout and "another SHA-256" in words.stdout


HEALED = [
    "a file of the app is changed",
    "a file of a tree is another",
    "signing.key is empty",
    "identity.key is cut",
    "token.json is half",
    "a record of an image is empty",
]


def test_what_can_be_made_again_is_healed(data: Path) -> None:
    for damage in HEALED:
        DAMAGES[damage][0](data)
    fixed = fsck(data, "--fix", code=0)
    assert fixed["damaged"] == 0 and all(problem["fixed"] for problem in fixed["problems"])
    assert {problem["kind"] for problem in fixed["problems"]} == {"file", "mount", "key", "record", "image"}
    server = start_server(data, "process")
    try:
        server.modal("deploy", "kept.py")
        assert server.python(GET.format((data / "call").read_text())).stdout.strip() == "3000000"
        call = "import modal; assert modal.Function.from_name('kept', 'echo').remote(b'x') == b'x'; print('ok')"
        assert "ok" in server.python(call).stdout
    finally:
        stop_server(server)
    fsck(data, code=0)


def test_a_damaged_result_is_never_a_wrong_one(data: Path) -> None:
    """The server answers for it with a sentence that says so, with its first try when fsck has noted it."""
    call = (data / "call").read_text()
    flip(blobs(data)[0], 1_500_000)
    flip(blobs(data)[1], 1_500_000)
    for noted in (False, True):
        if noted:
            assert fsck(data, "--fix", code=1)["damaged"] == 2
        server = start_server(data, "process")
        try:
            for _ in range(1 if noted else 2):
                done = server.python(GET.format(call), check=False)
                assert done.returncode and "3000000" not in done.stdout
            assert "is damaged on the server's disk" in done.stderr and "DataLossError" in done.stderr
            status = subprocess.run(
                [*STOKER, "status", "--data", str(data)], capture_output=True, text=True, timeout=60
            )
            assert "is damaged on the server's disk" in status.stdout
        finally:
            stop_server(server)
    flip(blobs(data)[0], 1_500_000)
    flip(blobs(data)[1], 1_500_000)
    assert fsck(data, "--fix", code=0)["damaged"] == 0
    server = start_server(data, "process")
    try:
        assert server.python(GET.format(call)).stdout.strip() == "3000000", "restored, it is served again"
    finally:
        stop_server(server)


def test_changed_files_are_not_given_out(data: Path, tmp_path: Path) -> None:
    """The next container of an app says what to do, and a deployment heals it."""
    flip(contents(data)[0], 5)
    flip(weights(data), 8_500_000)
    server = start_server(data, "process")
    try:
        done = server.modal("volume", "get", "kept", "/models/weights", str(tmp_path / "got"), check=False)
        assert done.returncode and "is damaged on the server's disk" in done.stdout + done.stderr
        call = "import modal; print(modal.Function.from_name('kept', 'echo').remote(b'x'))"
        done = server.python(call, check=False)
        assert done.returncode and "Deploy the app again" in done.stderr and "kept.py" in done.stderr
        server.modal("deploy", "kept.py")
        assert "b'x'" in server.python(call).stdout
    finally:
        stop_server(server)


DATABASES: dict[str, Callable[[Path], object]] = {
    "no database": lambda d: replace(d / "stoker.db", b"nonsense " * 500),
    "head": lambda d: flip(d / "stoker.db", 3),
    "cut": lambda d: os.truncate(d / "stoker.db", 20_000),
    "empty": lambda d: os.truncate(d / "stoker.db", 0),
    "pages": lambda d: [flip(d / "stoker.db", offset) for offset in range(4096, 80_000, 512)],
}


@pytest.mark.parametrize("damage", DATABASES)
def test_a_damaged_database_ends_the_start_in_a_sentence(data: Path, damage: str) -> None:
    DATABASES[damage](data)
    done = subprocess.run(
        [*STOKER, "up", "--detach", "--data", str(data), "--port", "0", "--runtime", "process"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 1 and "Traceback" not in said, said
    assert "database" in said and "backup" in said and said.count("error:") == 1
    assert "Traceback" not in (data / "logs" / "server.log").read_text()


def test_a_log_that_was_changed_is_told(data: Path) -> None:
    """SQLite leaves out what follows the damage, and says nothing."""
    connection = sqlite3.connect(data / "stoker.db", isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    for number in range(50):
        connection.execute("INSERT INTO settings (key, value) VALUES (?, ?)", (f"test/{number}", b"x" * 100))
    log = data / "stoker.db-wal"
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    killed = data.with_name("killed")  # the state in which a killed server leaves it
    subprocess.run(["cp", "-a", str(data), str(killed)], check=True)
    connection.close()
    (killed / "stoker.db-wal").write_bytes(content)
    (killed / "stoker.db-shm").unlink(missing_ok=True)
    [problem] = fsck(killed, code=1)["problems"]
    assert problem["kind"] == "database" and "frames are not read" in problem["detail"]
    server = start_server(killed, "process")
    try:
        assert "the newest changes are lost" in (killed / "logs" / "server.log").read_text()
    finally:
        stop_server(server)


def test_data_of_an_earlier_version_is_unknown_and_not_damaged(data: Path) -> None:
    with sqlite3.connect(data / "stoker.db") as connection:
        connection.execute("UPDATE blobs SET sums = NULL")
        connection.execute("DELETE FROM volume_sums")
    flip(blobs(data)[0])
    found = fsck(data, code=0)
    assert found["unknown"] == {"blob": 2} and found["problems"] == []
    words = subprocess.run([*STOKER, "fsck", "--data", str(data)], capture_output=True, text=True, timeout=120)
    assert "Without digests, so that nobody knows: 2 blobs." in words.stdout


@pytest.mark.parametrize(
    "content", [b"port = \n", b"\xff\xfe\x00", b'port = "many"\n'], ids=["half", "binary", "wrong"]
)
def test_a_damaged_settings_file_is_told_and_the_rest_is_looked_at(data: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stoker.toml").write_bytes(content)
    found = fsck(data, code=1, cwd=tmp_path)
    assert [problem["kind"] for problem in found["problems"]] == ["settings"] and found["checked"]["blob"] == 2
    done = subprocess.run(
        [*STOKER, "up", "--data", str(data)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 1 and "stoker.toml" in done.stderr and "Traceback" not in done.stderr


def test_half_an_upload_is_no_damage(data: Path) -> None:
    (data / "blobs" / ".staging" / "bl-half.0.0123").write_bytes(b"x" * 1_000)
    (data / "blobs" / ".staging" / ".incoming-0123").write_bytes(b"x")
    found = fsck(data, code=0)
    assert any("parts of uploads are not finished" in note for note in found["notes"])


def test_what_is_no_data_directory_is_told_as_such(tmp_path: Path) -> None:
    for place in (tmp_path / "nothing", tmp_path):
        done = subprocess.run([*STOKER, "fsck", "--data", str(place)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "error:" in done.stderr and "Traceback" not in done.stderr
