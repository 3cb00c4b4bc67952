"""What services write down of what happens."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.services.telemetry.logs import Logs
from stoker.services.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Telemetry:
    logs: Logs
    metrics: Metrics
