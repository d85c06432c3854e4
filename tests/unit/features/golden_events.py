"""What golden values of aggregations are recorded of: events and expressions."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

NAN = math.nan
_START = datetime(2026, 1, 1, tzinfo=UTC)


def _event(
    owner: int,
    hour: int,
    x: float | None,
    n: int | None,
    s: str | None,
    b: bool | None,
    d: int | None,
) -> dict[str, Any]:
    seen = None if d is None else _START + timedelta(hours=d)
    at = _START + timedelta(hours=hour)
    return {"owner_id": owner, "at": at, "x": x, "n": n, "s": s, "b": b, "d": seen}


EVENTS = [
    # Ties, nulls.
    _event(0, 0, 1.0, 3, "a", True, 1),
    _event(0, 1, 2.0, 1, "b", False, 2),
    _event(0, 2, 2.0, None, "a", None, None),
    _event(0, 3, None, 3, None, True, 9),
    _event(0, 4, -1.0, 2, "c", False, 5),
    # Nothing but nulls.
    _event(1, 0, None, None, None, None, None),
    _event(1, 1, None, None, None, None, None),
    # NaN and infinity.
    _event(2, 0, NAN, 1, "z", False, 1),
    _event(2, 1, 5.0, 2, "y", False, 3),
    _event(2, 2, math.inf, 2, "z", False, 0),
    _event(2, 3, 3.0, 7, "z", None, 2),
    # One row.
    _event(3, 0, 7.0, 9, "q", True, 8),
    _event(4, 0, 4.0, 5, "k", True, 6),
    _event(4, 1, 6.0, 5, "k", True, 4),
    _event(4, 2, 1.0, -5, "l", True, 2),
    _event(4, 3, 3.0, 0, "m", True, 3),
    _event(4, 4, 2.0, 4, "k", True, 5),
]
"""Events by owner; owner 5 has none."""

AGGREGATIONS: list[tuple[str, str | None]] = [
    ("_.events.count()", None),
    ("_.events[_.s].count()", None),
    ("_.events[_.x > 1.0].count()", None),
    ("_.events[_.x].sum()", None),
    ("_.events[_.n].sum()", None),
    ("_.events[_.x, _.n > 1].sum()", None),
    ("_.events[_.x].mean()", None),
    ("_.events[_.n].mean()", None),
    ("_.events[_.x].min()", None),
    ("_.events[_.n].min()", None),
    ("_.events[_.d].min()", None),
    ("_.events[_.x].max()", None),
    ("_.events[_.n].max()", None),
    ("_.events[_.d].max()", None),
    ("_.events[_.x].array_agg()", None),
    ("_.events[_.s].array_agg()", None),
    ("_.events[_.s, _.x > 1.0].array_agg()", None),
    ("_.events[_.s].max_by(_.x)", None),
    ("_.events[_.s].min_by(_.x)", None),
    ("_.events[_.n].max_by(_.s)", None),
    ("_.events[_.x].min_by(_.n)", None),
    ("_.events[_.x].max_by(_.d)", None),
    ("_.events[_.n].min_by(_.d)", None),
    ("_.events[_.x].std()", "_.x.std()"),
    ("_.events[_.n].std()", "_.n.std()"),
    ("_.events[_.x].var()", "_.x.var()"),
    ("_.events[_.n].var()", "_.n.var()"),
    ("_.events[_.b].any()", "_.b.any()"),
    ("_.events[_.b].all()", "_.b.all()"),
    ("_.events[_.s].count_distinct()", "_.s.count_distinct()"),
    ("_.events[_.x].count_distinct()", "_.x.count_distinct()"),
    ("_.events[_.n].approx_count_distinct()", "_.n.approx_count_distinct()"),
    ("_.events[_.s].approx_top_k(k=1)", "_.s.approx_top_k(k=1)"),
    ("_.events[_.n].approx_top_k(k=1)", "_.n.approx_top_k(k=1)"),
    ("_.events[_.x].approx_percentile(quantile=0.0)", "_.x.approx_percentile(quantile=0.0)"),
    ("_.events[_.x].approx_percentile(quantile=0.25)", "_.x.approx_percentile(quantile=0.25)"),
    ("_.events[_.x].approx_percentile(quantile=0.5)", "_.x.approx_percentile(quantile=0.5)"),
    ("_.events[_.x].approx_percentile(quantile=0.9)", "_.x.approx_percentile(quantile=0.9)"),
    ("_.events[_.x].approx_percentile(quantile=1.0)", "_.x.approx_percentile(quantile=1.0)"),
    ("_.events[_.n].approx_percentile(quantile=0.5)", "_.n.approx_percentile(quantile=0.5)"),
]
"""Each with its form in chalkdf's grouping, where the expression evaluator lacks it."""

DOCUMENTED: list[tuple[str, list[Any]]] = [
    ("_.events[_.s].first()", ["a", None, "z", "q", "k", None]),
    ("_.events[_.s].last()", ["c", None, "z", "q", "k", None]),
    ("_.events[_.x].first()", [1.0, None, NAN, 7.0, 4.0, None]),
    ("_.events[_.x].last()", [-1.0, None, 3.0, 7.0, 2.0, None]),
    ("_.events[_.n].approx_top_k(k=2)", [[3, 1], None, [2, 1], [9], [5, -5], None]),
]
"""What neither evaluates (first, last), or orders by chance (the tail of the most frequent)."""
