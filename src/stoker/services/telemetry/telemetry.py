"""What services write down of what happens."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.services.telemetry.logs import Logs
from stoker.services.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Telemetry:
    """Logs for the owners of apps and figures for those of the server, in one parameter."""

    logs: Logs
    metrics: Metrics
