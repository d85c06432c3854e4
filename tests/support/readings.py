"""Random readings that meet each other at the edges of windows, for tests of every aggregation."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import strategies as st

# The night in which Europe's clocks skip an hour: windows are lengths of time, not of days.
START = datetime(2026, 3, 28, 22, tzinfo=UTC)
DAY = timedelta(days=1)
US = timedelta(microseconds=1)
READINGS = {
    "id": pl.Int64,
    "meter_id": pl.String,
    "at": pl.Datetime("us", "UTC"),
    "level": pl.Float64,
    "units": pl.Int64,
    "flag": pl.Boolean,
    "label": pl.String,
    "seen": pl.Datetime("us", "UTC"),
}
LARGE = 2**62

MOMENTS = st.builds(
    lambda days, us: START + days * DAY + us * US, st.integers(0, 4), st.integers(-1, 1)
)
_levels = st.sampled_from([None, 1.5, 2.0, 2.0, -3.25, 0.0, math.nan, math.inf, -math.inf, 1e17])
ONE_READING = st.fixed_dictionaries(
    {
        "meter_id": st.sampled_from(["a", "a", "ä", "", None]),
        "at": st.one_of(MOMENTS, MOMENTS, st.none()),
        "level": _levels,
        "units": st.sampled_from([None, 1, 2, 3, -3, LARGE, -LARGE]),
        "flag": st.sampled_from([None, True, False]),
        "label": st.sampled_from([None, "x", "y", "é", ""]),
        "seen": st.one_of(MOMENTS, st.none()),
    }
)
