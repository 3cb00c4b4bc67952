"""When a failed attempt is tried again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """`modal.Retries` as the server applies it: `retries` attempts after the first, delays in seconds."""

    retries: int = 0
    backoff_coefficient: float = 1.0
    initial_delay: float = 1.0
    max_delay: float = 60.0

    def delay(self, failures: int) -> float | None:
        """Seconds to wait after the `failures`-th failed attempt (from 1), or None when no attempt is left."""
        if failures > self.retries:
            return None
        # The exponent is capped so that a long series cannot overflow; max_delay has long been reached by then.
        return min(self.max_delay, self.initial_delay * self.backoff_coefficient ** min(failures - 1, 64))
