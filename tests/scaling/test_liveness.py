"""Calls that must not wait for others: short ones behind long ones, children of those that run, and whoever shares a busy machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningServer
from tests.scaling.conftest import containers, deploy, logs, results, wait_for

_GATE = """
@app.function(serialized=True, timeout=100)
def gate(begun="", until=""):
    if begun:
        pathlib.Path(begun).touch()
    while until and not pathlib.Path(until).exists():
        time.sleep(0.05)
    return os.getpid()
"""
# How an input may call: directly, many at once, from threads of its own, and by spawning first.
_NEST = """
@app.function(serialized=True, timeout=100)
def direct(n):
    return n * modal.Function.from_name("nest", "direct").remote(n - 1) if n else 1

@app.function(serialized=True, timeout=100)
def mapped(n):
    return 1 + sum(modal.Function.from_name("nest", "mapped").map([n - 1] * 2)) if n else 1

@app.function(serialized=True, timeout=100)
def threaded(n):
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return 1 + sum(pool.map(modal.Function.from_name("nest", "threaded").remote, [n - 1] * 2)) if n else 1

@app.function(serialized=True, timeout=100)
def spawned(n):
    return 1 + modal.Function.from_name("nest", "spawned").spawn(n - 1).get() if n else 1

@app.function(serialized=True, timeout=100)
def even(n):
    return modal.Function.from_name("nest", "odd").remote(n - 1) if n else True

@app.function(serialized=True, timeout=100)
def odd(n):
    return modal.Function.from_name("nest", "even").remote(n - 1) if n else False
"""


def test_a_short_call_does_not_wait_for_a_long_one(small: RunningServer, tmp_path: Path) -> None:
    deploy(small, tmp_path, "mixed", _GATE)
    begun, until = str(tmp_path / "begun"), str(tmp_path / "until")
    try:
        code = f"""
import pathlib
gate = F("mixed", "gate")
for _ in range(20): gate.remote()  # all that ended were short
long = gate.spawn({begun!r}, {until!r})
while not pathlib.Path({begun!r}).exists(): time.sleep(0.05)
short = gate.remote()
pathlib.Path({until!r}).touch()
print(json.dumps([short, long.get()]))
"""
        short, long = results(small, code)
        assert short != long
    finally:
        small.modal("app", "stop", "--yes", "mixed")


@pytest.mark.parametrize(
    "name, argument, result",
    [("direct", 3, 6), ("mapped", 2, 7), ("threaded", 2, 7), ("spawned", 3, 4), ("odd", 3, True)],
)
def test_nested_calls_end(nest: RunningServer, name: str, argument: int, result: object) -> None:
    code = f"""
f = F("nest", {name!r})
for _ in range(10): f.remote(0)  # nothing makes the server expect that one runs long
print(json.dumps(f.remote({argument})))
"""
    assert results(nest, code) == result


def test_a_recursion_that_max_containers_forbids_is_told_of(small: RunningServer, tmp_path: Path) -> None:
    program = """
@app.function(serialized=True, max_containers=2)
def down(n):
    return modal.Function.from_name("narrow", "down").remote(n - 1) if n else 0
"""
    deploy(small, tmp_path, "narrow", program)
    try:
        call = results(small, "print(json.dumps(F('narrow', 'down').spawn(2).object_id))")
        sentence = "all that max_containers allows (2) wait for the results of other calls"
        wait_for(lambda: sentence in logs(small, "narrow"))
        results(small, f"modal.FunctionCall.from_id({call!r}).cancel(); print(0)")
    finally:
        small.modal("app", "stop", "--yes", "narrow")


def test_whoever_keeps_the_processors_busy_does_not_keep_others_from_growing(
    small: RunningServer, tmp_path: Path
) -> None:
    """Four inputs that wait until all four of them run."""
    program = f"""
@app.function(serialized=True, timeout=100, max_containers=4)
def meet(n):
    here = pathlib.Path({str(tmp_path)!r})
    (here / f"met-{{n}}").touch()
    while len(list(here.glob("met-*"))) < 4:
        time.sleep(0.1)
"""
    deploy(small, tmp_path, "meeting", program)
    try:
        with busy_processors():
            assert results(small, "print(json.dumps(list(F('meeting', 'meet').map(range(4)))))") == [None] * 4
    finally:
        small.modal("app", "stop", "--yes", "meeting")


def test_a_limit_that_is_lifted_is_none(small: RunningServer, tmp_path: Path) -> None:
    deploy(small, tmp_path, "lifted", _GATE.replace("serialized=True", "serialized=True, max_containers=1"))
    try:
        code = """
gate = F("lifted", "gate")
before, after = gate.autoscaler.settings(), gate.autoscaler.update(max_containers=None)
gate.remote()
print(json.dumps([before.max_containers, after.max_containers]))
"""
        assert results(small, code) == [1, None]
    finally:
        small.modal("app", "stop", "--yes", "lifted")


def test_a_container_that_serves_once_has_no_second_beside_it(small: RunningServer, tmp_path: Path) -> None:
    deploy(small, tmp_path, "once", _GATE.replace("serialized=True", "serialized=True, single_use_containers=True"))
    deploy(small, tmp_path, "other", _GATE)
    begun, until = tmp_path / "begun", tmp_path / "until"
    try:
        call = results(small, f"print(json.dumps(F('once', 'gate').spawn({str(begun)!r}, {str(until)!r}).object_id))")
        wait_for(begun.exists)
        results(small, "print(F('other', 'gate').remote())")  # as long as a start takes
        assert len(containers(small, "once")) == 1
        until.touch()
        results(small, f"print(modal.FunctionCall.from_id({call!r}).get())")
        wait_for(lambda: not containers(small, "once"))
    finally:
        until.touch()
        small.modal("app", "stop", "--yes", "once")
        small.modal("app", "stop", "--yes", "other")


@pytest.fixture(scope="module")
def nest(small: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    deploy(small, tmp_path_factory.mktemp("nest"), "nest", _NEST)
    yield small
    small.modal("app", "stop", "--yes", "nest")


@contextlib.contextmanager
def busy_processors() -> Iterator[None]:
    """By programs of nobody here, which give way to whatever else has to run."""
    command = [sys.executable, "-c", "import os; os.nice(19)\nwhile True: pass"]
    burners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
