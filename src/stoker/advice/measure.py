"""Measuring a deployed function with the official client: one container, one setting after the other, callers that never pause."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stoker.advice.samples import Sample
from stoker.errors import FailedPrecondition, InvalidArgument

_GAIN = 1.05  # what twice the size must bring for the sweep to go on
_LINGER = 2  # seconds until a container of a setting that was tried is given back


@dataclass(frozen=True)
class Setting:
    """`kind` is "concurrency" or "batch"; `size` the inputs in a container at once, or in a batch."""

    kind: str
    size: int
    wait_ms: int = 0


@dataclass(frozen=True)
class Measurement:
    """What one container did under a setting. Latencies in seconds, as a caller of a full container sees them."""

    setting: Setting
    calls: int
    failures: int
    failure: str  # what the first one said
    throughput: float  # inputs a second
    p50: float
    p95: float
    first: float  # seconds of the first call, a container's start included


class Remote(Protocol):
    """A function or method of the client."""

    remote: Any
    get_current_stats: Any


def sweep(
    variant: Callable[[Setting], Remote],
    samples: Sequence[Sample],
    settings: Sequence[Setting],
    *,
    seconds: float,
    start_timeout: float,
    at_least: int,
    on_begin: Callable[[Setting], None],
    on_end: Callable[[Measurement], None],
) -> list[Measurement]:
    """Measures the settings of a kind in order. Behind the size `at_least` it stops when two in a row bring nothing more, or when all calls
    fail. Raises FailedPrecondition."""
    found: list[Measurement] = []
    best, without_gain = 0.0, 0
    for setting in settings:
        on_begin(setting)
        measurement = asyncio.run(
            _measure(variant(setting), setting, samples, seconds=seconds, start_timeout=start_timeout)
        )
        found.append(measurement)
        on_end(measurement)
        without_gain = without_gain + 1 if measurement.throughput < best * _GAIN else 0
        best = max(best, measurement.throughput)
        if setting.size >= at_least and (without_gain >= 2 or measurement.failures == measurement.calls):
            break
    return found


def sizes(most: int, *present: int) -> list[int]:
    """1, 2, 4, ... up to `most`, and the sizes that the function has now: no smaller one can be advised before those were tried."""
    powers = [2**n for n in range(20) if 2**n < most]
    return sorted({*powers, most, *present})


def restart(function: Remote, sample: Sample, *, start_timeout: float) -> float:
    """Seconds of the first call of another container, once those there are have gone. Raises FailedPrecondition.

    With memory snapshots the first container of a setting saves one, which no later container does."""

    async def measured() -> float:
        deadline = time.monotonic() + start_timeout
        while (await function.get_current_stats.aio()).num_total_runners:
            if time.monotonic() > deadline:
                raise FailedPrecondition(f"After {start_timeout:.0f} s the measured container was still there.")
            await asyncio.sleep(_LINGER / 4)  # the client has no call that waits for it
        return await _first(function, sample, start_timeout)

    return asyncio.run(measured())


class Variants:
    """A deployed function under other settings, each with containers of its own, of which there is at most one."""

    def __init__(self, app: str, function: str, environment: str | None, parameters: dict[str, Any]) -> None:
        self._app = app
        self._class, _, self._name = function.rpartition(".")
        self._environment = environment
        self._parameters = parameters

    def __call__(self, setting: Setting) -> Remote:
        import modal

        options: dict[str, Any] = {"max_containers": 1, "scaledown_window": _LINGER}
        if self._class:
            found: Any = modal.Cls.from_name(self._app, self._class, environment_name=self._environment)
        else:
            found = modal.Function.from_name(self._app, self._name, environment_name=self._environment)
        found = found.with_options(**options)
        if setting.kind == "batch":
            found = found.with_batching(max_batch_size=setting.size, wait_ms=setting.wait_ms)
        else:
            found = found.with_concurrency(max_inputs=setting.size, target_inputs=setting.size)
        if self._class:
            found = getattr(found(**self._parameters), self._name)
        elif self._parameters:
            raise InvalidArgument("Only classes have parameters; leave --parameters out.")
        function: Remote = found
        return function


async def _measure(
    function: Remote, setting: Setting, samples: Sequence[Sample], *, seconds: float, start_timeout: float
) -> Measurement:
    """Keeps the container as full as the setting lets it be, and one batch more waiting."""
    inputs = itertools.cycle(samples)
    began = time.monotonic()
    try:
        first = await _first(function, next(inputs), start_timeout)
    except FailedPrecondition:
        raise
    except Exception as error:
        return Measurement(setting, 1, 1, _said(error), 0.0, 0.0, 0.0, time.monotonic() - began)
    callers = setting.size * 2 if setting.kind == "batch" else setting.size
    await _load(function, inputs, callers, calls_each=1, until=0.0)  # the first batch of a size is often slower
    begin = time.monotonic()
    records = await _load(function, inputs, callers, calls_each=2, until=begin + seconds)
    good = sorted(latency for _, latency, failure in records if not failure)
    failures = [failure for _, _, failure in records if failure]
    return Measurement(
        setting=setting,
        calls=len(records),
        failures=len(failures),
        failure=failures[0] if failures else "",
        throughput=len(good) / max(max(ended for ended, _, _ in records) - begin, 1e-6),
        p50=_quantile(good, 0.5),
        p95=_quantile(good, 0.95),
        first=first,
    )


async def _first(function: Remote, sample: Sample, start_timeout: float) -> float:
    """Seconds of a call that has to wait for a container."""
    began = time.monotonic()
    try:
        await asyncio.wait_for(_call(function, sample), start_timeout)
    except asyncio.TimeoutError:
        raise FailedPrecondition(
            f"No answer within {start_timeout:.0f} s. There may be no room for another container (`stoker status`), or it starts "
            "slowly: `modal app logs` shows it. Give it more time with --start-timeout."
        ) from None
    return time.monotonic() - began


async def _load(
    function: Remote, inputs: Iterator[Sample], callers: int, *, calls_each: int, until: float
) -> list[tuple[float, float, str]]:
    """(end, latency, failure) of all calls. Each caller makes one after the other until that time, and at least so many."""
    records: list[tuple[float, float, str]] = []

    async def caller() -> None:
        made = 0
        while made < calls_each or time.monotonic() < until:
            started = time.monotonic()
            try:
                await _call(function, next(inputs))
                failure = ""
            except Exception as error:
                failure = _said(error)
            ended = time.monotonic()
            records.append((ended, ended - started, failure))
            made += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return records


async def _call(function: Remote, sample: Sample) -> Any:
    return await function.remote.aio(*sample.args, **sample.kwargs)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
