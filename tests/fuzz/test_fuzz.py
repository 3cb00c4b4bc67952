"""Nonsense and malice for the RPC port and for the sockets of containers, from a seed: STOKER_SEED chooses another.

The server must stay, answer an honest client meanwhile, and not grow. What it costs is printed. Its processor time per megabyte is bounded
with a wide margin, which tells work that grows with the square of what came from all other work, also on a busy machine. So is the longest time
that its event loop stood still, in processor time as well: what other programs take of the machine does not count.
"""

from __future__ import annotations

import glob
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from stoker.protocol.rpc import SERVICE
from tests.conftest import RunningServer, start_server, stop_server
from tests.fuzz.bench import MIB, Cost, Recorder, Target
from tests.fuzz.grammar import Grammar, Headers, attacks, large_fields

SEED = int(os.environ.get("STOKER_SEED", "1"))
SECONDS = float(os.environ.get("STOKER_FUZZ_SECONDS", "1"))  # for each kind of input
_MOST_CPU = 20.0  # seconds for a MiB and a bit more; requests of 30 bytes take 5
_MOST_STILL = (
    0.1  # seconds of processor time at a stretch, for each MB, and once more for what the server does by itself
)
_MOST_GROWTH = 300 * MIB

_HONEST = """
import modal
square = modal.Function.from_name('fuzz', 'square')
assert list(square.map(range(30))) == [n * n for n in range(30)]
assert sorted(modal.Function.from_name('fuzz', 'count').remote_gen(3)) == [0, 1, 2]
with modal.Dict.ephemeral() as d, modal.Queue.ephemeral() as q:
    d['x'] = 1; q.put(d['x']); q.get()
print(square.object_id)
"""
_IDS = """
import modal
square = modal.Function.from_name('fuzz', 'square').hydrate()
named = (getattr(modal, kind).from_name('fuzz') for kind in ('Dict', 'Queue', 'Secret', 'Volume'))
app_id = modal.App.lookup('fuzz').app_id
print(square.object_id, square.spawn(2).object_id, app_id, *(one.hydrate().object_id for one in named))
"""


class Range:
    """A server with an app and a container of it, and what a client said that used it."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        info = json.loads((server.data / "server.json").read_text())
        url = urlsplit(info["url"])
        token = json.loads((server.data / "token.json").read_text())
        plain: Headers = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), ("te", "trailers")]
        self.client: Headers = [*plain, ("x-modal-token-id", token["id"]), ("x-modal-token-secret", token["secret"])]
        self.nobody: Headers = [*plain, ("x-modal-token-id", "ak-0"), ("x-modal-token-secret", "as-0")]
        self._container = plain  # its socket says who it is
        self.target = Target(server.pid, (url.hostname or "", url.port or 0), self.client)
        server.modal("deploy", str(Path(__file__).parent / "app.py"))
        recorder = Recorder(self.target.address)
        recorder.start()
        for kind, more in (("dict", []), ("queue", []), ("volume", []), ("secret", ["A=1"])):
            server.modal(kind, "create", "fuzz", *more)
        self.run_honest(MODAL_SERVER_URL=f"http://127.0.0.1:{recorder.port}")
        recorder.close()
        self.recordings = [bytes(said) for said in recorder.said if said]
        names = ("function_id", "function_call_id", "app_id", "dict_id", "queue_id", "secret_id", "volume_id")
        self.known = dict(zip(names, self.run_honest(_IDS).split(), strict=True))
        self.known |= {"app_name": "fuzz", "environment_name": "main", "object_tag": "square", "last_entry_id": "0-0"}
        self.known |= {"image_id": "im-1", "input_id": "in-1", "task_id": "ta-1", "name": "local"}

    def headers(self, who: str) -> Headers:
        return {"a stranger": self.nobody, "a container": self._container}.get(who, self.client)

    def address(self, who: str) -> tuple[str, int] | Path:
        """Where they reach the server. Nonsense may end a container; there is always another."""
        if not who.endswith("a container"):
            return self.target.address
        deadline = time.monotonic() + 60
        while True:
            # Not by Path.rglob, which fails when a directory goes while it looks.
            found = glob.glob(str(self.server.data / "run" / "**" / "modal.sock"), recursive=True)
            sockets = [path for path in map(Path, found) if _is_served(path)]
            if sockets:
                return sockets[0]
            assert time.monotonic() < deadline, "there is no container any more"
            time.sleep(0.1)

    def run_honest(self, script: str = _HONEST, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], env=self.server.env | env, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr + self.server.log_tail()
        return done.stdout.strip()


@pytest.fixture(scope="module")
def fired_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    server = start_server(tmp_path_factory.mktemp("fuzz"), "process", "--log-level", "warning")
    try:
        range_ = Range(server)
        yield range_
        range_.target.close()
    finally:
        stop_server(server)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _fire(range_: Range, name: str, who: str, make: Callable[[], bytes], seconds: float = SECONDS) -> None:
    """Fires for a while, and says what it cost."""
    end = time.monotonic() + seconds
    with range_.target.measured() as cost:
        while time.monotonic() < end:
            cost.sent += range_.target.fire(make(), range_.address(who))
    _check(range_, f"{name} from {who}", cost)


def _check(range_: Range, name: str, cost: Cost) -> None:
    print(f"\n{name:80} {cost}", end="")
    assert cost.cpu <= _MOST_CPU * (cost.sent / MIB + 0.5), cost
    assert cost.still <= _MOST_STILL * (cost.sent / 1e6 + 1), cost
    assert cost.memory < _MOST_GROWTH, cost
    assert psutil.Process(range_.server.pid).is_running()


EVERYBODY = ["a stranger", "a client", "a container"]
# Not those that would end what the other tests need.
_SPARED = (
    "Token",
    "AppClient",
    "AppD",
    "AppP",
    "AppR",
    "AppS",
    "Environment",
    "ContainerStop",
    "FunctionUpdateSchedulingParams",
)
METHODS = [name for name in SERVICE.methods_by_name if not name.startswith(_SPARED)]
WITH_RIGHTS = ["a client", "a container", "code with a token in a container"]


@pytest.mark.parametrize("who", EVERYBODY)
def test_frames_and_headers_of_all_kinds(fired_at: Range, who: str) -> None:
    headers = fired_at.headers(who)
    grammar = Grammar(SEED, fired_at.known)
    _fire(fired_at, "noise", who, grammar.noise)
    _fire(fired_at, "frames", who, lambda: grammar.frames(headers))
    _fire(fired_at, "header blocks", who, grammar.header_blocks)
    _fire(fired_at, "changed recordings", who, lambda: grammar.mutated(grammar.rng.choice(fired_at.recordings)))


@pytest.mark.parametrize("who", WITH_RIGHTS)
@pytest.mark.parametrize("kind", ["messages", "crowded messages"])
def test_messages_of_all_rpcs(fired_at: Range, who: str, kind: str) -> None:
    grammar = Grammar(SEED, fired_at.known)
    make = grammar.message if kind == "messages" else grammar.crowded
    _fire(
        fired_at,
        f"{kind} of RPCs",
        who,
        lambda: grammar.calls(grammar.rng.sample(METHODS, 20), fired_at.headers(who), make),
        2 * SECONDS,
    )


@pytest.mark.parametrize("who", WITH_RIGHTS)
def test_one_list_or_text_of_a_megabyte(fired_at: Range, who: str) -> None:
    grammar = Grammar(SEED, fired_at.known)
    places = [(name, path) for name in METHODS for path in large_fields(SERVICE.methods_by_name[name].input_type)]
    grammar.rng.shuffle(places)
    end, total = time.monotonic() + 5 * SECONDS, Cost()
    while places and time.monotonic() < end:
        name, path = places.pop()
        message = grammar.large(fired_at.headers(who), name, path, 1_000_000)
        with fired_at.target.measured() as cost:
            cost.sent = fired_at.target.fire(message, fired_at.address(who))
        assert cost.still <= 2 * _MOST_STILL, (name, [field.name for field in path], str(cost))
        total.add(cost)
    _check(fired_at, f"lists and texts of a MB from {who}", total)


@pytest.mark.parametrize("who", EVERYBODY)
def test_old_attacks(fired_at: Range, who: str) -> None:
    for name, attack in attacks(fired_at.headers(who)):
        with fired_at.target.measured() as cost:
            cost.sent = fired_at.target.fire(attack, fired_at.address(who))
        _check(fired_at, f"{name}, from {who}", cost)


def test_honest_work_goes_on_afterwards(fired_at: Range) -> None:
    assert fired_at.run_honest().strip() == fired_at.known["function_id"]
    log = (fired_at.server.data / "logs" / "server.log").read_text()
    defects = [line for line in log.splitlines() if "rpc failed" in line]
    assert not defects, "\n".join(defects[:5])
