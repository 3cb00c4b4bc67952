"""`stoker simulate`: made-up and recorded traffic, and the promise about prediction on a small scale."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from stoker.simulation.comparison import compare, quantile
from stoker.simulation.generators import GENERATORS, azure
from stoker.simulation.policies import contenders, oracle
from stoker.simulation.replay import replay
from stoker.simulation.trace import Trace, TracedFunction
from tests.conftest import STOKER, RunningServer
from tests.scaling.conftest import deploy, results


def stoker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*STOKER, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("shape", sorted(GENERATORS))
def test_a_seed_makes_the_same_traffic(shape: str) -> None:
    first, again, other = (GENERATORS[shape](7_200, 5, seed) for seed in (1, 1, 2))
    assert first == again != other
    for function in first.functions:
        assert list(function.arrivals) == sorted(function.arrivals)
        assert function.arrivals[0] >= 0 and function.arrivals[-1] < 7_200
        assert len(function.runs) == len(function.arrivals)


@pytest.mark.parametrize("contender", contenders(), ids=lambda c: c.name)
def test_a_replay_by_hand(contender) -> None:  # type: ignore[no-untyped-def]
    """Two inputs a second apart, and one a day later: the second finds the first one's container at work, the third finds none."""
    function = TracedFunction("f", (0.0, 10.0, 80_000.0), (2.0, 2.0, 2.0), start=3.0)
    outcome = replay(function, contender.make(function, 20.0), 90_000.0)
    assert [round(wait) for wait in outcome.waits] == [3, 0, 3]
    assert outcome.cold == 2 <= outcome.starts <= 4
    assert outcome.container_seconds < 150


def test_the_oracle_is_a_bound() -> None:
    trace = azure(10_000, 12, 3)
    for function in trace.functions:
        best = oracle(function, trace.seconds)
        for contender in contenders():
            outcome = replay(function, contender.make(function, 60.0), trace.seconds)
            assert best.container_seconds <= 1.2 * outcome.container_seconds + 10 * function.start


def test_prediction_shortens_queues_at_equal_cost() -> None:
    """For functions with habits; docs/scaling.md has the comparison on traffic of all kinds."""
    timers = [
        TracedFunction(f"every {p:g} s", tuple(p * i for i in range(1, 120)), (1.0,) * 119, 3.0) for p in (240.0, 600.0)
    ]
    ours, reactive, fixed, knative, oracle = compare(Trace(tuple(timers), 600.0 * 120), 20.0)
    assert abs(fixed.container_seconds - ours.container_seconds) < 0.2 * ours.container_seconds
    for other in (fixed, knative):
        assert other.container_seconds > 0.8 * ours.container_seconds
        assert ours.p95 < 0.7 * other.p95
    assert reactive.inputs == oracle.inputs == ours.inputs == 238
    assert oracle.p99 == 0 and oracle.container_seconds < ours.container_seconds


def test_quantiles() -> None:
    assert [quantile([1, 2, 3, 4], share) for share in (0.25, 0.5, 0.51, 1.0)] == [1, 2, 3, 4]
    assert quantile([], 0.5) == 0


def test_recorded_traffic_is_replayed(small: RunningServer, tmp_path: Path) -> None:
    program = """
@app.function(serialized=True, max_containers=1)
def nap(seconds):
    time.sleep(seconds)
    return seconds
"""
    deploy(small, tmp_path, "naps", program)
    try:
        code = """
begun = time.time()
naps = list(F('naps', 'nap').map([0.2, 0.3, 0.4]))
print(json.dumps([naps, time.time() - begun]))
"""
        naps, whole = results(small, code)
        assert naps == [0.2, 0.3, 0.4]
        saved = stoker("simulate", "--from-server", "--data", str(small.data), "--save", str(tmp_path / "traffic.csv"))
        assert saved.returncode == 0, saved.stderr
        rows = [r for r in csv.DictReader((tmp_path / "traffic.csv").open()) if r["function"] == "naps.nap"]
        runs = [float(row["run_seconds"]) for row in rows]
        assert len(runs) == 3 and all(run >= nap for run, nap in zip(runs, naps, strict=True))
        assert sum(runs) < whole, "they ran one after the other: no time of waiting is in them"
        assert all(0.05 < float(r["start_seconds"]) < 60 for r in rows)
        shown = stoker("simulate", str(tmp_path / "traffic.csv"), "--json")
        document = json.loads(shown.stdout)
        assert document["inputs"] >= 3 and len(document["policies"]) == 5
    finally:
        small.modal("app", "stop", "--yes", "naps")


def test_what_is_shown(tmp_path: Path) -> None:
    done = stoker(
        "simulate", "--generate", "poisson", "--functions", "1", "--hours", "0.5", "--svg", str(tmp_path / "x.svg")
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "seed 1",
        "stoker, predictive",
        "Knative-like",
        "oracle",
        "p95 queue time",
        "At equal container-seconds",
    ):
        assert words in done.stdout
    assert "<svg" in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize(
    "content, words",
    [
        ("function,arrived_at\nf,1\n", "no column 'run_seconds'"),
        ("function,arrived_at,run_seconds\nf,soon,1\n", "Line 2"),
        ("function,arrived_at,run_seconds\nf,1,-1\n", "negative"),
        ("function,arrived_at,run_seconds\n", "no inputs"),
    ],
)
def test_a_trace_that_is_none(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "trace.csv").write_text(content)
    done = stoker("simulate", str(tmp_path / "trace.csv"))
    assert done.returncode == 1 and words in done.stderr
