"""What code finds inside a sandbox, and what it does not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from stoker.runtime.addresses import GATEWAY
from tests.conftest import STOKER, RunningServer

_PRELUDE = """
import json, os, subprocess, sys, time
import modal
F = lambda name: modal.Function.from_name("inside", name)
"""


@pytest.fixture(scope="module")
def inside(sandboxes: RunningServer) -> RunningServer:
    sandboxes.modal("deploy", "inside.py", timeout=400)
    return sandboxes


def test_image_steps_files_and_secrets(inside: RunningServer) -> None:
    code = """
facts = F("facts").remote()
facts["where a plain image starts"] = F("shell").remote("pwd").strip()
facts["secret"] = F("shell").remote("printenv PASSWORD").strip()
# Its own arguments and everything that the platform wrote.
facts["files with the secret"] = F("shell").remote(
    "cat /__modal/task/args.bin /proc/1/cmdline /etc/environment 2>/dev/null | grep -c sesame"
).strip()
print(json.dumps(facts))
"""
    facts = _answer(inside, code)
    assert facts.pop("python").startswith("3.11.")
    assert facts == {
        "/etc/built": "built",
        "/etc/seen-at-build": "an image's value",
        "/etc/used-in-a-later-step": "copied hello",
        "/copied/hello.txt": "copied hello",
        "/copied-file.txt": "copied hello",
        "/mounted/hello.txt": "mounted hello",
        "/mounted/sub/deep.txt": "mounted deep",
        "/mounted-file.txt": "mounted hello",
        "FROM_IMAGE": "an image's value",
        "PASSWORD": "open-sesame-73",
        "user": "0",  # though the image says USER nobody
        "cwd": "/srv/work",
        "helper": "the helper is here",
        "where a plain image starts": "/root",
        "secret": "open-sesame-73",
        "files with the secret": "0",
    }


def test_nothing_of_the_host_is_there(inside: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("of the host")
    here = Path(__file__).resolve()
    command = f"cat {tmp_path}/canary {here} {inside.data}/token.json; ls /proc | grep -c '^[0-9]'; cat /proc/version"
    said = _answer(inside, f"print(json.dumps(F('shell').remote({command!r})))")
    assert said.count("No such file") == 3
    assert "of the host" not in said
    processes = int(re.search(r"^\d+$", said, re.MULTILINE).group())  # type: ignore[union-attr]
    assert processes < 15
    assert f"Linux version {os.uname().release}" not in said


def test_the_network_leads_to_the_world_only(inside: RunningServer) -> None:
    server = json.loads((inside.data / "server.json").read_text())
    ports = [int(server[key].rpartition(":")[2]) for key in ("url", "http_url")]
    interfaces = psutil.net_if_addrs().values()
    hosts = sorted({a.address for found in interfaces for a in found if a.family == socket.AF_INET})
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        ports.append(everywhere.getsockname()[1])
        near = [(host, port) for host in hosts for port in ports]
        code = f"""
found = F("connect").remote({near!r})
listening = F("listen").remote_gen(6.0)
address = next(listening)
found["a neighbour"] = F("connect").remote([(address, 8123)])[address + ":8123"]
found["what the neighbour saw"] = list(listening)
found["own"] = address
found["download"] = F("shell").remote("python -m pip download --no-deps -q -d /tmp/d idna 2>&1; ls /tmp/d")
print(json.dumps(found))
"""
        found = _answer(inside, code)
    assert found.pop("download").strip().startswith("idna-")
    assert found.pop("what the neighbour saw") == ["nobody came"]
    assert found.pop("own") not in hosts
    assert len(found) == len(near) + 1
    # Where sandboxes reach the server is a gateway of their own, which may have the number of the clients' port.
    assert {place for place, how in found.items() if how == "connected"} <= {f"{GATEWAY}:{ports[1]}"}
    secret = "/_stoker/tokens"
    ask = f"import urllib.request; urllib.request.urlopen('http://{GATEWAY}:{ports[1]}{secret}')"
    said = _answer(inside, f"print(json.dumps(F('shell').remote({f'python -c {chr(34)}{ask}{chr(34)} 2>&1'!r})))")
    assert "HTTP Error 404" in said or "refused" in said


def test_a_build_that_a_function_asks_for_reaches_nothing_of_the_host(inside: RunningServer) -> None:
    """It runs in gVisor, whatever the setting for builds of clients."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 3)"
        key = inside.data / "secret.key"
        steps = f'dmesg | head -1; cat {key} /proc/1/root{key}; ls /dev/disk; python -c "{connect}"; id -u; exit 7'
        said = inside.python(_PRELUDE + f"print(F('build').remote({steps!r}))").stdout
    assert "failed with exit code 7" in said and "Starting gVisor" in said
    assert f"{key}: No such file" in said and "/dev/disk': No such file" in said and "ConnectionRefusedError" in said
    assert key.is_file(), "there was nothing to find"


def test_a_restricted_function_runs_and_reaches_nothing(inside: RunningServer) -> None:
    """In a sandbox, with an argument that travels in a blob."""
    found = _answer(inside, 'print(json.dumps(F("confined").remote(bytes(3 << 20))))')
    expected: dict[str, Any] = dict.fromkeys(("call", "look up", "dict", "files"), "PermissionDeniedError")
    assert found == expected | {"size": 3 << 20}
    assert inside.modal("volume", "get", "inside-shared", "confined.txt", "-").stdout.startswith("written")


def test_a_restricted_function_has_memory_snapshots(inside: RunningServer) -> None:
    look = 'print(json.dumps(modal.Cls.from_name("inside", "Confined")().look.remote()))'
    saved = _answer(inside, look)
    inside.stop_containers("inside")
    restored = _answer(inside, look)
    assert restored == saved  # also the moment of its birth
    assert restored[1] == "PermissionDeniedError"


def test_over_http_a_container_reaches_signed_urls_alone(inside: RunningServer) -> None:
    token = json.loads((inside.data / "token.json").read_text())
    paths = ["/", "/healthz", "/metrics", "/w/any/", "/_stoker/status", "/_stoker/tokens", "/_stoker/snapshots"]
    paths += [f"/_stoker/tokens/{token['id']}", "/_stoker/token-requests/x", "/_stoker/../healthz"]
    unsigned = ["/_stoker/blobs/bl-x", "/_stoker/nfs/sv-x/1/1/x", "/_stoker/blobs/bl-x?expires=9999999999&signature=00"]
    found = _answer(inside, f"print(json.dumps(F('gateway').remote({[*paths, *unsigned]!r})))")
    assert found == dict.fromkeys(paths, 404) | dict.fromkeys(unsigned, 403)


def test_lines_come_while_the_function_runs(inside: RunningServer) -> None:
    code = """
logs = subprocess.Popen(
    [sys.executable, "-m", "modal", "app", "logs", "-f", "inside"], stdout=subprocess.PIPE, text=True
)
call = F("speak").spawn(2, 5.0)
seen = []
for line in logs.stdout:
    if line.startswith("line "):
        seen.append(line.split()[1])
        try:
            call.get(timeout=0)
            seen.append("over")
        except TimeoutError:
            seen.append("still running")
        if len(seen) == 4:
            break
logs.terminate()
call.get()
print(json.dumps(seen))
"""
    assert _answer(inside, code) == ["0", "still running", "1", "still running"]


def test_children_live_between_inputs_and_orphans_are_reaped(inside: RunningServer) -> None:
    code = """
keeper = modal.Cls.from_name("inside", "Keeper")()
first = keeper.look.remote()
time.sleep(1)
print(json.dumps([first, keeper.look.remote()]))
"""
    (alive, before, _), (still_alive, after, zombies) = _answer(inside, code)
    assert alive
    assert still_alive
    assert after > before
    assert zombies == 0


@pytest.mark.parametrize("mib", [3, 50])
def test_big_values_travel_both_ways(inside: RunningServer, mib: int) -> None:
    code = f"""
value = os.urandom({mib} << 20)
print(json.dumps([F("echo").remote(value) == value, F("echo_from_inside").remote(len(value))]))
"""
    assert _answer(inside, code) == [True, mib << 20]


def test_generators_of_big_chunks(inside: RunningServer) -> None:
    code = """
found = [(len(c), c[0], c.count(c[:1])) for c in F("chunks").remote_gen(3, 20 << 20)]
print(json.dumps(found))
"""
    assert _answer(inside, code) == [[20 << 20, number, 20 << 20] for number in range(3)]


def test_a_volume_is_shared(inside: RunningServer) -> None:
    code = """
F("write").remote("one.txt", "first words")
seen = [F("read").remote("one.txt")]
F("write").remote("one.txt", "second words")
print(json.dumps([*seen, F("read").remote("one.txt")]))
"""
    assert _answer(inside, code) == ["first words", "second words"]
    assert inside.modal("volume", "get", "inside-shared", "one.txt", "-").stdout.startswith("second words")


def test_too_much_memory_is_said(inside: RunningServer) -> None:
    code = """
try:
    F("eat").remote(600)
except Exception as error:
    print(json.dumps([type(error).__name__, str(error), F("eat").remote(20)]))
"""
    kind, sentence, afterwards = _answer(inside, code)
    assert kind == "RemoteError"
    assert "ran out of memory" in sentence
    assert "256 MiB" in sentence
    assert afterwards == 20


def test_too_much_on_the_disk_is_said(inside: RunningServer) -> None:
    code = """
try:
    F("hoard").remote(200)
except Exception as error:
    print(json.dumps([type(error).__name__, str(error), F("hoard").remote(20)]))
"""
    kind, sentence, afterwards = _answer(inside, code)
    assert kind == "RemoteError"
    assert "than the 64 MiB that it may" in sentence and "ephemeral_disk=" in sentence
    assert afterwards == 20


@pytest.mark.parametrize(("letter", "count", "size"), [("þ", 1, 1_000_000), ("ø", 1_500, 6_000)])
def test_all_that_is_printed_is_in_the_log(inside: RunningServer, letter: str, count: int, size: int) -> None:
    _answer(inside, f'F("flood").remote({letter!r}, {count}, {size}); print(json.dumps(""))')
    deadline = time.monotonic() + 60
    while (found := _stored(inside, letter)) != (count * size, count) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == (count * size, count)


def _stored(server: RunningServer, letter: str) -> tuple[int, int]:
    """How often a letter is in the stored log, and with a line end."""
    with sqlite3.connect(server.data / "stoker.db") as connection:
        rows = connection.execute("SELECT data FROM logs WHERE fd = 1 AND data LIKE ? ORDER BY seq", (f"%{letter}%",))
        text = "".join(data for (data,) in rows)
    return text.count(letter), text.count(f"{letter}\n")


def test_a_frozen_sandbox_ends_and_its_input_runs_elsewhere(inside: RunningServer) -> None:
    code = """
call = F("first_run").spawn()
while not (box := modal.Dict.from_name("inside-notes", create_if_missing=True)).get("begun"):
    time.sleep(0.1)
print(json.dumps(box["begun"]))
"""
    container_id = _answer(inside, code)
    [sandbox] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if (words := process.info["cmdline"] or [""])[0] == "runsc-sandbox" and container_id in " ".join(words)
    ]
    sandbox.send_signal(signal.SIGSTOP)
    code = """
notes = modal.Dict.from_name("inside-notes")
while not notes.get("ended"):
    time.sleep(0.2)
print(json.dumps(notes["ended"]))
"""
    assert _answer(inside, code) != container_id
    assert not sandbox.is_running() or sandbox.status() == psutil.STATUS_ZOMBIE
    assert "gave no sign of life" in inside.modal("app", "logs", "inside", "--since", "10m").stdout


def test_images_that_cannot_be_built(inside: RunningServer) -> None:
    step = inside.modal("run", "broken_images.py::app.failing_step", check=False)
    assert step.returncode == 1
    assert "a word before" in step.stdout
    assert "the reason" in step.stdout
    assert "failed with exit code 7" in step.stderr
    assert step.stderr.rstrip().endswith("the reason")
    base = inside.modal("run", "broken_images.py::other.unknown_base", check=False)
    assert base.returncode == 1
    assert "nobody.invalid/no/such:image" in base.stderr
    assert "registry_mirrors" in base.stderr
    assert _answer(inside, "print(json.dumps(F('eat').remote(1)))") == 1


def test_without_the_sandbox_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [*STOKER, "up", "--data", str(tmp_path / "data"), "--port", "0", "--runtime", "runsc"],
        env=os.environ | {"STOKER_RUNSC_PATH": str(tmp_path / "no-runsc")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert "no-runsc" in said
    assert "runsc" in said


def _answer(server: RunningServer, code: str) -> Any:
    """The JSON that a program prints in its last line."""
    return json.loads(server.python(_PRELUDE + code, timeout=240).stdout.splitlines()[-1])
