"""When functions with a schedule run. Pure: moments are seconds since the epoch, and nothing here reads a clock.

A period counts from an anchor, the moment of deployment: its k-th run is at anchor + k periods. Months and years keep the day of the month
as far as there is one, and do so counted from the anchor: the 31st becomes the 28th of February and then the 31st of March again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from dateutil.relativedelta import relativedelta

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_NEVER = float("inf")
_UNITS = ("years", "months", "weeks", "days", "hours", "minutes", "seconds")


@dataclass(frozen=True)
class Cron:
    """`modal.Cron`: a line of a crontab (a sixth field in front stands for seconds) and an IANA time zone."""

    expression: str
    time_zone: str = "UTC"

    def __str__(self) -> str:
        return f"{self.expression} ({self.time_zone})"


@dataclass(frozen=True)
class Period:
    """`modal.Period`."""

    years: int = 0
    months: int = 0
    weeks: int = 0
    days: int = 0
    hours: int = 0
    minutes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = [(unit, getattr(self, unit)) for unit in _UNITS]
        return "every " + " ".join(f"{n:g} {unit if n != 1 else unit[:-1]}" for unit, n in parts if n)


Schedule = Cron | Period


def fault(schedule: Schedule) -> str:
    """What is wrong with a schedule, as a sentence, or ""."""
    if isinstance(schedule, Period):
        units = [getattr(schedule, unit) for unit in _UNITS]
        if any(n < 0 for n in units):
            return "A Period cannot have negative parts."
        return "" if any(units) else "A Period must be longer than nothing, such as modal.Period(hours=1)."
    try:
        zone = _zone(schedule.time_zone)
    except (KeyError, ValueError, OSError):
        return f"There is no time zone {schedule.time_zone!r}; use an IANA name such as 'Europe/Berlin' or 'UTC'."
    try:
        CronSim(_fields(schedule), datetime(2000, 1, 1, tzinfo=zone))
    except CronSimError as error:
        return (
            f"{schedule.expression!r} is not a cron expression ({str(error)[:1].lower()}{str(error)[1:]}). It has five fields: minute, hour, "
            "day of the month, month, day of the week; such as '30 2 * * 1-5'."
        )
    return ""


def next_run(schedule: Schedule, anchor: float, after: float) -> float | None:
    """The first run later than `after`; None when no calendar has it. A period counts from `anchor`."""
    if isinstance(schedule, Period):
        moment = _at(schedule, anchor, _count(schedule, anchor, after) + 1)
        return moment if moment != _NEVER else None
    start = datetime.fromtimestamp(after, timezone.utc).astimezone(_zone(schedule.time_zone))
    try:
        return next(CronSim(_fields(schedule), start)).timestamp()
    except StopIteration:
        return None


def last_run(schedule: Schedule, anchor: float, until: float) -> float | None:
    """The latest run in (anchor, until], None when there is none."""
    if isinstance(schedule, Period):
        count = _count(schedule, anchor, until)
        return _at(schedule, anchor, count) if count > 0 else None
    start = datetime.fromtimestamp(until, timezone.utc).astimezone(_zone(schedule.time_zone))
    # Looking back excludes its start, so it starts at the next run and takes the one before.
    following = next(CronSim(_fields(schedule), start), None)
    try:
        previous = next(CronSim(_fields(schedule), following or start, reverse=True)).timestamp()
    except StopIteration:
        return None
    return previous if anchor < previous <= until else None


def _count(period: Period, anchor: float, until: float) -> int:
    """How many runs of a period lie in (anchor, until]."""
    if until <= anchor:
        return 0
    low, high = 0, 1
    while _at(period, anchor, high) <= until:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if _at(period, anchor, middle) <= until:
            low = middle
        else:
            high = middle
    return low


def _at(period: Period, anchor: float, count: int) -> float:
    """The moment of a period's run number `count`; the end of time for one that no calendar has."""
    start = datetime.fromtimestamp(anchor, timezone.utc)
    try:
        moment = start + relativedelta(years=period.years * count, months=period.months * count)
        moment += timedelta(
            weeks=period.weeks * count,
            days=period.days * count,
            hours=period.hours * count,
            minutes=period.minutes * count,
        )
        return (moment + timedelta(seconds=period.seconds * count)).timestamp()
    except (OverflowError, ValueError):
        return _NEVER


def _fields(schedule: Cron) -> str:
    expression = " ".join(schedule.expression.split())
    return _ALIASES.get(expression.lower(), expression)


def _zone(name: str) -> tzinfo:
    """Raises KeyError (ZoneInfoNotFoundError), ValueError or OSError."""
    return ZoneInfo(name) if name and name != "UTC" else timezone.utc
