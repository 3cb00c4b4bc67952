"""Functions that want more than there is: told so, served in turn, and nothing is thrown away for it."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunningServer
from tests.scaling.conftest import containers, deploy, logs, results, wait_for

_KEPT = """
@app.function(gpu="H100", serialized=True, scaledown_window=600)
def who(): return os.getpid()
"""
_LONG = """
@app.function(gpu="H100", serialized=True)
def work(seconds):
    time.sleep(seconds)
    return seconds
"""


def test_an_idle_container_makes_room_for_another_function(small: RunningServer, tmp_path: Path) -> None:
    deploy(small, tmp_path, "first", _KEPT)
    deploy(small, tmp_path, "second", _KEPT)
    try:
        before = results(small, "print(F('first', 'who').remote())")
        (idle,) = containers(small, "first")
        other = results(small, "print(F('second', 'who').remote())")
        assert other != before
        assert idle not in containers(small, "first")
        assert "make room for who" in logs(small, "first")
        assert "Waiting for resources: H100 are in use" in logs(small, "second")
        assert results(small, "print(F('first', 'who').remote())") not in (before, other), "and back again"
    finally:
        small.modal("app", "stop", "--yes", "first")
        small.modal("app", "stop", "--yes", "second")


def test_a_busy_function_shares_in_the_end_and_loses_nothing(small: RunningServer, tmp_path: Path) -> None:
    deploy(small, tmp_path, "greedy", _LONG)
    deploy(small, tmp_path, "modest", _LONG)
    try:
        code = """
long = [F("greedy", "work").spawn(0.5) for _ in range(40)]
long[0].get()
F("modest", "work").remote(0.1)
try:
    long[-1].get(timeout=0)
    before = True
except TimeoutError:
    before = False
print(json.dumps([before, [call.object_id for call in long]]))
"""
        before, calls = results(small, code)
        assert not before, "all that was there before it went first"
        code = f"print(sum(modal.FunctionCall.from_id(c).get(timeout=100) for c in {calls!r}))"
        assert results(small, code) == 20.0
    finally:
        small.modal("app", "stop", "--yes", "greedy")
        small.modal("app", "stop", "--yes", "modest")


def test_what_can_never_fit_fails_at_once_and_names_it(small: RunningServer, tmp_path: Path) -> None:
    program = """
@app.function(gpu="B200:8", serialized=True)
def gpus(): ...

@app.function(memory=900_000_000, serialized=True)
def memory(): ...
"""
    deploy(small, tmp_path, "giant", program)
    try:
        code = """
said = []
for name in ("gpus", "memory"):
    try:
        F("giant", name).remote()
    except Exception as error:
        said.append(str(error))
print(json.dumps(said))
"""
        gpus, memory = results(small, code)
        assert "B200:8" in gpus and "1 x H100" in gpus
        assert "900000000 MiB of memory" in memory
    finally:
        small.modal("app", "stop", "--yes", "giant")


def test_who_gives_up_waiting_is_in_nobodys_way(small: RunningServer, tmp_path: Path) -> None:
    deploy(small, tmp_path, "holder", _LONG)
    deploy(small, tmp_path, "quitter", _LONG)
    try:
        code = """
long = F("holder", "work").spawn(8)
time.sleep(2)
waiting = F("quitter", "work").spawn(1)
time.sleep(1)
waiting.cancel()
print(long.get(timeout=60))
"""
        assert results(small, code) == 8
        wait_for(lambda: not containers(small, "quitter"))
        assert results(small, "print(F('holder', 'work').remote(0.1))") == 0.1
    finally:
        small.modal("app", "stop", "--yes", "holder")
        small.modal("app", "stop", "--yes", "quitter")
