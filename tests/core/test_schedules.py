"""When scheduled functions run: calendars, summer time, and what is refused."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.schedules import Cron, Period, Schedule, fault, last_run, next_run

NIGHTLY = Cron("30 2 * * *", "Europe/Berlin")


def at(text: str) -> float:
    """UTC unless the text says otherwise."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


@pytest.mark.parametrize(
    "schedule, after, expected",
    [
        (Cron("0 6 * * *", "America/New_York"), "2026-01-10 00:00", "2026-01-10T06:00-05:00"),
        (Cron("0 6 * * *", "America/New_York"), "2026-07-10 00:00", "2026-07-10T06:00-04:00"),
        (NIGHTLY, "2026-03-28 12:00", "2026-03-29T03:00+02:00"),  # 02:30 does not exist that night
        (NIGHTLY, "2026-03-29 12:00", "2026-03-30T02:30+02:00"),
        (NIGHTLY, "2026-10-24 12:00", "2026-10-25T02:30+02:00"),
        (NIGHTLY, "2026-10-25 00:30", "2026-10-26T02:30+01:00"),  # 02:30 exists twice that night and runs once
        (Cron("*/30 * * * *", "Europe/Berlin"), "2026-10-25 00:30", "2026-10-25T02:00+01:00"),  # this one runs in both
        (Cron("0 0 29 2 *"), "2026-03-01 00:00", "2028-02-29 00:00"),
        (Cron("@daily"), "2026-03-01 00:00", "2026-03-02 00:00"),
    ],
)
def test_cron(schedule: Cron, after: str, expected: str) -> None:
    assert next_run(schedule, 0.0, at(after)) == at(expected)


def test_looking_back_over_the_end_of_summer_time() -> None:
    assert last_run(NIGHTLY, 0.0, at("2026-10-25 00:29")) == at("2026-10-24T02:30+02:00")
    assert last_run(NIGHTLY, 0.0, at("2026-10-25 00:30")) == at("2026-10-25T02:30+02:00")
    assert last_run(NIGHTLY, 0.0, at("2026-10-25 23:00")) == at("2026-10-25T02:30+02:00")
    assert last_run(NIGHTLY, at("2026-10-25 00:30"), at("2026-10-25 23:00")) is None, "nothing since the deployment"


def test_months_keep_their_day() -> None:
    anchor = at("2026-01-31 12:00")
    monthly = Period(months=1)
    assert next_run(monthly, anchor, anchor) == at("2026-02-28 12:00")
    assert next_run(monthly, anchor, at("2026-02-28 12:00")) == at("2026-03-31 12:00")
    assert last_run(monthly, anchor, at("2026-02-27 12:00")) is None
    assert next_run(Period(years=9_000), anchor, anchor) is None


@given(
    st.one_of(
        st.builds(
            Period,
            months=st.integers(0, 30),
            weeks=st.integers(0, 3),
            days=st.integers(0, 40),
            hours=st.integers(0, 99),
            seconds=st.floats(0.5, 1e5),
        ),
        st.sampled_from([NIGHTLY, Cron("*/7 * * * *"), Cron("15 1,2,3 * * 0", "America/New_York"), Cron("0 0 31 * *")]),
    ),
    st.floats(0, 2e9),
    st.floats(0, 1e8),
)
def test_looking_ahead_and_back_agree(schedule: Schedule, anchor: float, later: float) -> None:
    now = anchor + later
    following = next_run(schedule, anchor, now)
    assert following is not None and following > now
    assert last_run(schedule, anchor, following) == following
    previous = last_run(schedule, anchor, now)
    if previous is not None:
        assert anchor < previous <= now
        assert next_run(schedule, anchor, previous) == following, "no run lies between the two"


@pytest.mark.parametrize(
    "schedule, words",
    [
        (Cron("61 * * * *"), "'61 * * * *' is not a cron expression (bad minute)"),
        (Cron("* * * *"), "five fields"),
        (Cron("0 0 30 2 *"), "bad day-of-month"),
        (Cron("every day"), "five fields"),
        (Cron("* * * * *", "Mars/Olympus"), "no time zone 'Mars/Olympus'"),
        (Cron("* * * * *", "../etc/passwd"), "no time zone"),
        (Period(), "longer than nothing"),
        (Period(days=1, hours=-1), "negative"),
    ],
)
def test_nonsense_is_named(schedule: Schedule, words: str) -> None:
    assert words in fault(schedule)


def test_what_is_shown() -> None:
    assert str(Period(days=1, seconds=1.5)) == "every 1 day 1.5 seconds"
    assert str(NIGHTLY) == "30 2 * * * (Europe/Berlin)"
    assert not fault(NIGHTLY) and not fault(Period(seconds=0.5))
