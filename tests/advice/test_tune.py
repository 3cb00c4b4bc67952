"""`stoker tune` on deployed functions whose best settings are known, and the parts it is made of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stoker.advice import chart, keepalive
from stoker.advice.measure import Measurement, Setting, sizes
from stoker.advice.recommend import choose, cost_of_1000
from stoker.advice.samples import Sample, read_samples
from stoker.cli.main import cli
from stoker.core.autoscaler import ScalingSettings
from stoker.errors import InvalidArgument, StokerError
from stoker.simulation.trace import TracedFunction
from tests.conftest import RunningServer


def measured(size: int, throughput: float, p95: float, kind: str = "concurrency", failures: int = 0) -> Measurement:
    return Measurement(
        Setting(kind, size, 50), 100, failures, "ValueError: no" * failures, throughput, p95 / 2, p95, 3.0
    )


class TestChoosing:
    SWEEP = (
        measured(1, 10, 0.1),
        measured(2, 19, 0.11),
        measured(4, 36, 0.12),
        measured(8, 38, 0.3),
        measured(16, 37, 0.6),
    )

    def test_the_smallest_with_nearly_the_most(self) -> None:
        choice = choose(self.SWEEP)
        assert choice is not None and choice.options == {"max_inputs": 6, "target_inputs": 4}

    def test_latency_comes_first(self) -> None:
        choice = choose(self.SWEEP, latency=0.11)
        assert choice is not None and choice.measurement.setting.size == 2
        hopeless = choose(self.SWEEP, latency=0.01)
        assert hopeless is not None and hopeless.measurement.setting.size == 1 and "no setting" in hopeless.reason

    def test_settings_with_failures_are_out(self) -> None:
        choice = choose([measured(1, 10, 0.1), measured(2, 100, 0.1, failures=1)])
        assert choice is not None and choice.options == {"max_inputs": 1}
        assert choose([measured(1, 10, 0.1, failures=3)]) is None

    def test_a_batch_size(self) -> None:
        choice = choose([measured(1, 10, 0.1, "batch"), measured(8, 70, 0.2, "batch")])
        assert choice is not None and choice.options == {"max_batch_size": 8, "wait_ms": 50}

    def test_cost(self) -> None:
        assert cost_of_1000(10, 3.6) == pytest.approx(0.1)

    def test_sizes_end_at_the_most(self) -> None:
        assert sizes(1) == [1] and sizes(8) == [1, 2, 4, 8] and sizes(25) == [1, 2, 4, 8, 16, 25]

    def test_the_present_size_is_tried_before_a_smaller_one_is_advised(self) -> None:
        assert sizes(8, 5, 5) == [1, 2, 4, 5, 8] and sizes(8, 25, 32) == [1, 2, 4, 8, 25, 32]

    def test_the_largest_that_was_tried_may_not_be_the_best(self) -> None:
        growing = choose(self.SWEEP[:3])
        assert growing is not None and "--max-size 16 tries more" in growing.reason
        ended = choose(self.SWEEP)
        assert ended is not None and "--max-size" not in ended.reason


class TestKeeping:
    HOUR = 3600.0

    @staticmethod
    def every(seconds: float, count: int, start: float) -> TracedFunction:
        return TracedFunction("f", tuple(i * seconds for i in range(count)), (1.0,) * count, start)

    def best(self, traffic: TracedFunction, patience: float, wait: float | None = None) -> keepalive.Plan:
        span = traffic.arrivals[-1] + 2
        return keepalive.best(list(keepalive.plans(traffic, span, None)), len(traffic.arrivals), patience, wait)

    def test_gaps_shorter_than_a_start_is_worth_are_kept_over(self) -> None:
        plan = self.best(self.every(45, 80, start=20), patience=10)
        assert plan.scaledown_window == 60 and plan.cold < 0.05

    def test_rare_calls_are_not_worth_a_container(self) -> None:
        plan = self.best(self.every(2 * self.HOUR, 30, start=5), patience=10)
        assert plan.scaledown_window == 2 and plan.min_containers == 0 and plan.cold == 1.0

    def test_a_limit_on_the_wait_is_kept(self) -> None:
        traffic = self.every(2 * self.HOUR, 30, start=5)
        plan = self.best(traffic, patience=10, wait=1.0)
        assert plan.min_containers == 1 and plan.p95_wait <= 1.0

    def test_the_present_settings_are_replayed_as_they_are(self) -> None:
        traffic = self.every(45, 80, start=20)
        short = keepalive.plan(traffic, 3600, ScalingSettings(scaledown_window=10))
        long = keepalive.plan(traffic, 3600, ScalingSettings(scaledown_window=100))
        assert short.cold == 1.0 and long.cold == pytest.approx(1 / 80)
        assert short.container_hours < long.container_hours
        assert {plan.min_containers for plan in keepalive.plans(traffic, 3600, most=1)} == {0, 1}


class TestSamples:
    def test_forms_of_an_item(self, tmp_path: Path) -> None:
        file = tmp_path / "inputs.json"
        file.write_text('["a", ["b", "c"], {"args": [1], "kwargs": {"k": 2}}, {"prompt": "x"}, {}]')
        assert read_samples(str(file)) == [
            Sample(("a",), {}),
            Sample((["b", "c"],), {}),
            Sample((1,), {"k": 2}),
            Sample(({"prompt": "x"},), {}),
            Sample(({},), {}),
        ]
        lines = tmp_path / "inputs.jsonl"
        lines.write_text('"a"\n\n{"args": []}\n')
        assert read_samples(str(lines)) == [Sample(("a",), {}), Sample((), {})]

    def test_a_python_function(self, tmp_path: Path) -> None:
        file = tmp_path / "make.py"
        file.write_text("def two():\n    yield 'a'\n    yield ('b', 1)\ndef bad():\n    raise KeyError('x')\n")
        assert read_samples(f"{file}:two") == [Sample(("a",), {}), Sample(("b", 1), {})]
        for name in ("bad", "missing"):
            with pytest.raises(InvalidArgument, match=f"make.py:{name} gave no inputs"):
                read_samples(f"{file}:{name}")

    @pytest.mark.parametrize(
        ("name", "text", "says"),
        [
            ("a.json", "{", "is not JSON"),
            ("a.json", '{"a": 1}', "must hold a list"),
            ("a.json", "[]", "has no inputs"),
            ("a.json", '[{"args": 1}]', "`args` must be a list"),
            ("a.jsonl", '1\n{"\n', "line 2 of"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, name: str, text: str, says: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidArgument, match=says):
            read_samples(str(tmp_path / name))


def test_the_plot_is_well_formed_and_marks_the_choice() -> None:
    sweep = TestChoosing.SWEEP
    root = ElementTree.fromstring(chart.svg("an <app> & its function", sweep, sweep[2]))
    texts = [element.text for element in root.iter() if element.text]
    assert "an <app> & its function" in texts and "recommended" in texts
    assert {"1", "2", "4", "8", "16"} <= set(texts)
    one = ElementTree.fromstring(chart.svg("one", sweep[:1], None))
    assert one.tag.endswith("svg")
    assert chart.bar(1, 2, 4) == "██" and chart.bar(0, 0, 4) == ""


@pytest.fixture(scope="module")
def deployed(server: RunningServer) -> Iterator[RunningServer]:
    server.modal("deploy", "tuned.py")
    yield server
    server.modal("app", "stop", "-y", "tuned")


def tune(server: RunningServer, *arguments: object, code: int = 0) -> Any:
    command = [sys.executable, "-m", "stoker", "tune", *map(str, arguments), "--data", str(server.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr


def test_the_batch_size_with_the_most_throughput_is_found(deployed: RunningServer, tmp_path: Path) -> None:
    samples, plot = tmp_path / "inputs.json", tmp_path / "sweep.svg"
    samples.write_text("[1, 2, 3]")
    options = ("--inputs", samples, "--seconds", 0.5, "--max-size", 16, "--price", 2, "--plot", plot)
    document = tune(deployed, "tuned.batched", *options, "--json")
    assert document["settings"]["max_batch_size"] == 2
    tried = {m["setting"]["size"]: m for m in document["measurements"]}
    assert sorted(tried) == [1, 2, 4, 8, 16]
    assert all(m["failures"] == 0 and m["cost_of_1000"] > 0 for m in tried.values())
    assert tried[1]["throughput"] < tried[2]["throughput"] < tried[4]["throughput"] < tried[8]["throughput"]
    assert document["recommended"] == {"max_batch_size": 8, "wait_ms": 30}
    assert "recommended" in plot.read_text()


def test_a_method_is_measured_and_the_rest_of_its_traffic_is_replayed(deployed: RunningServer, tmp_path: Path) -> None:
    samples = tmp_path / "inputs.jsonl"
    samples.write_text("1\n2\n")
    deployed.python("import modal; print(list(modal.Cls.from_name('tuned', 'Model')().answer.map(range(4))))")
    text = tune(deployed, "tuned", "Model.answer", "--inputs", samples, "--seconds", 0.3, "--max-size", 2, "--price", 2)
    assert "@modal.concurrent(max_inputs=3, target_inputs=2)   now max_inputs=1, target_inputs=1" in text
    assert "for the 4 recorded inputs:" in text and "container-hours (" in text
    assert "Expect of a full container:" in text and "per 1,000 inputs" in text


def test_the_first_start_with_snapshots_is_not_what_a_start_takes(deployed: RunningServer, tmp_path: Path) -> None:
    """It saves the snapshot. So a start is measured once more, and sizes are tried up to the present one, although less is enough."""
    samples, starts = tmp_path / "inputs.json", tmp_path / "starts"
    samples.write_text("[1]")
    starts.mkdir()
    given = json.dumps({"starts": str(starts)})
    options = ("--inputs", samples, "--seconds", 0.1, "--max-size", 1, "--parameters", given, "--json")
    document = tune(deployed, "tuned.Snapshotted.answer", *options)
    assert document["settings"]["memory_snapshot"] is True
    assert [m["setting"]["size"] for m in document["measurements"]] == [1, 3]
    assert len(list(starts.iterdir())) == 3  # one for each size, and another of the one that is advised
    assert document["expected"] in [
        {k: v for k, v in m.items() if k != "cost_of_1000"} for m in document["measurements"]
    ]


def test_traffic_alone_is_enough(deployed: RunningServer) -> None:
    deployed.python("import modal; print(list(modal.Function.from_name('tuned', 'quick').map(range(30))))")
    document = tune(deployed, "tuned.quick", "--json")
    assert document["traffic"]["inputs"] == 30 and document["measurements"] == []
    assert set(document["recommended"]) == {"min_containers", "buffer_containers", "scaledown_window"}
    current = document["traffic"]["current"]
    assert current["scaledown_window"] == 60 and current["container_hours"] > 0


def test_calls_that_fail_are_no_measure(deployed: RunningServer, tmp_path: Path) -> None:
    failing = tmp_path / "failing.json"
    failing.write_text('[{"args": [1], "kwargs": {"fail": true}}]')
    said = tune(deployed, "tuned.Model.answer", "--inputs", failing, code=1)
    assert "Every call failed. The first said: ValueError: asked to fail" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tuned.nothing"], "has no function 'nothing'. It has: Model.*, Snapshotted.*, batched, quick"),
        (["nothing.at.all"], "No app 'nothing' is deployed"),
        (["tuned"], "names no function"),
        (["tuned.quick", "--kind", "batch", "--inputs"], "not batched"),
        (["tuned.Model.answer", "--parameters", "[]", "--inputs"], "must be an object"),
        (["tuned.batched", "--days", "0.00001"], "no recorded traffic"),
    ],
)
def test_wrong_use_is_explained(deployed: RunningServer, tmp_path: Path, arguments: list[str], says: str) -> None:
    if arguments[-1] == "--inputs":
        (tmp_path / "inputs.json").write_text("[1]")
        arguments = [*arguments, str(tmp_path / "inputs.json")]
    with pytest.raises(StokerError, match=re.escape(says)):
        CliRunner().invoke(cli, ["tune", *arguments, "--data", str(deployed.data)], catch_exceptions=False)


def test_the_shell_completes_functions_and_examples(deployed: RunningServer) -> None:
    def complete(words: str) -> set[str]:
        completion = {"_STOKER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"}
        done = subprocess.run(
            [sys.executable, "-m", "stoker"],
            capture_output=True,
            text=True,
            env={**os.environ, **completion, "STOKER_DATA": str(deployed.data)},
            timeout=60,
        )
        return set(done.stdout.split())

    deployed.python("import modal; print(modal.Function.from_name('tuned', 'quick').remote(1))")
    assert "tuned.quick" in complete("stoker tune tuned.")
    assert complete("stoker new diff") == {"diffusion"}
