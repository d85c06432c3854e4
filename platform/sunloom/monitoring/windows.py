"""Windows of a monitor: spans of time, counted from 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class TimeSpan(NamedTuple):
    """From ``start`` until before ``end``, UTC."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        # Hours suffice: windows begin and end at whole ones.
        return f"{self.start:%Y-%m-%dT%H}/{self.end:%Y-%m-%dT%H}"


def floor_to(time: datetime, length: timedelta) -> datetime:
    """Start of the window of that length that contains the time."""
    # Counted from a fixed day, the windows are the same whenever a monitor was started.
    return EPOCH + (time - EPOCH) // length * length


def hour_until(time: datetime) -> TimeSpan:
    """From the full hour until the time: what is stored again within the hour is replaced."""
    return TimeSpan(floor_to(time, HOUR), time)
