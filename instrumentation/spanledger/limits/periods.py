"""Calendar windows (hour, day, month) in UTC or a named time zone, across daylight-saving changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

WINDOWS: Final = ("hour", "day", "month")
"""In the order in which they are checked."""


class Window(NamedTuple):
    """Half-open interval from `start` to `end`, both in UTC."""

    start: datetime
    end: datetime

    def seconds_left(self, moment: datetime) -> float:
        return max(0.0, (self.end - moment).total_seconds())


def window(name: str, moment: datetime, zone: tzinfo = UTC) -> Window:
    """The window `name` (hour, day, month) that contains `moment`.

    Args:
        name: one of WINDOWS.
        moment: a datetime with a time zone.
        zone: decides when a day begins. A day with a clock change has 23 or 25 hours; the hour that
            occurs twice is two windows. (Lord Howe Island, whose clock changes by half an hour, has odd hours then.)

    Raises:
        ValueError: `name` is not one of WINDOWS.
    """
    local = moment.astimezone(zone)
    if name == "hour":
        start = moment.astimezone(UTC) - timedelta(
            minutes=local.minute, seconds=local.second, microseconds=local.microsecond
        )
        return Window(start, start + timedelta(hours=1))
    if name == "day":
        return Window(_midnight(local.date(), zone), _midnight(local.date() + timedelta(days=1), zone))
    if name == "month":
        first = local.date().replace(day=1)
        return Window(_midnight(first, zone), _midnight((first + timedelta(days=32)).replace(day=1), zone))
    raise ValueError(f"{name!r} is not a valid window: use {', '.join(WINDOWS)}")


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
