"""A comparison of online with offline values passes where it compared some."""

from __future__ import annotations

from datetime import UTC, datetime

from sunloom.monitoring.skew import Difference, SkewReport


def test_nothing_compared_is_no_pass() -> None:
    difference = Difference("s1", datetime(2026, 1, 1, tzinfo=UTC), "spent", 1.0, 2.0)
    assert SkewReport.from_differences(10, 40, []).passed
    assert not SkewReport.from_differences(10, 40, [difference]).passed
    assert not SkewReport.from_differences(10, 0, []).passed
