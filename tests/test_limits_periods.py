"""Periods of budgets in a time zone: hours, days and months around its clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanledger.limits.periods import window

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("name", "zone", "moment", "hours"),
    [
        ("hour", UTC, "2026-03-29T01:30:00+00:00", 1),
        ("day", UTC, "2026-03-29T01:30:00+00:00", 24),
        ("day", BERLIN, "2026-03-29T12:00:00+00:00", 23),  # the clock goes forward
        ("day", BERLIN, "2026-10-25T12:00:00+00:00", 25),  # and back
        ("month", UTC, "2026-02-28T23:59:59.999999+00:00", 28 * 24),
        ("month", UTC, "2028-02-29T00:00:00+00:00", 29 * 24),
        ("month", BERLIN, "2026-10-31T23:30:00+00:00", 30 * 24),  # November there
        ("month", BERLIN, "2026-03-05T00:00:00+00:00", 31 * 24 - 1),
        ("hour", ZoneInfo("Asia/Kolkata"), "2026-03-29T01:45:00+00:00", 1),
    ],
)
def test_a_period_has_the_length_that_its_time_zone_gives_it(name, zone, moment, hours):
    period = window(name, datetime.fromisoformat(moment), zone)
    assert period.end - period.start == timedelta(hours=hours)
    assert period.start.astimezone(zone).minute == 0


def test_the_repeated_hour_of_autumn_is_two_periods():
    first, second = (window("hour", datetime(2026, 10, 25, hour, 30, tzinfo=UTC), BERLIN) for hour in (0, 1))
    assert first.end == second.start


@given(st.integers(1_577_836_800, 1_893_456_000).map(lambda s: datetime.fromtimestamp(s, UTC)), st.sampled_from(["hour", "day", "month"]),
       st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Pacific/Apia"]))  # fmt: skip
def test_every_moment_is_in_one_period_and_periods_are_contiguous(moment, name, zone):
    period = window(name, moment, ZoneInfo(zone))
    assert period.start <= moment < period.end
    assert window(name, period.end, ZoneInfo(zone)).start == period.end
    assert window(name, period.end - timedelta(microseconds=1), ZoneInfo(zone)) == period
