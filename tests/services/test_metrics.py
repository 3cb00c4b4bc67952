"""What Prometheus reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from stoker.core.books import PooledInput, PoolSettings
from stoker.core.pool import Pool
from stoker.services.telemetry.metrics import Metrics
from stoker.services.watch.present import Present


def test_functions_of_one_name_are_counted_together() -> None:
    def runner(inputs: int) -> Any:
        pool = Pool(PoolSettings())
        pool.add(0.0, [PooledInput(f"in-{n}", "fc-1") for n in range(inputs)])
        return SimpleNamespace(function=SimpleNamespace(app_id="ap-1", name="Model.*"), pool=pool, taken=inputs)

    metrics = Metrics()
    apps: Any = SimpleNamespace(get=lambda app_id: SimpleNamespace(id=app_id, name="app"))
    runners = [runner(2), runner(3)]  # one class with two sets of parameters
    metrics.registry.register(Present(lambda: runners, apps))
    lines = metrics.text().decode().splitlines()
    assert 'stoker_inputs{app="app",function="Model.*",state="waiting"} 5.0' in lines
    assert 'stoker_inputs_taken_total{app="app",function="Model.*"} 5.0' in lines
    samples = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(samples) == len(set(samples))
