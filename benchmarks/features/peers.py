"""The same answers by Polars and DuckDB, as a careful user would write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl

from sunloom.features.plan.feature_sets import NOW

WINDOWS_DAYS = (1, 7, 30)
_COUNTS_AND_SUMS = ", ".join(
    f'count(*) filter (e."at" > a.now - interval {days} day) c{days}, '
    f'coalesce(sum(e.f0) filter (e."at" > a.now - interval {days} day), 0) s{days}'
    for days in WINDOWS_DAYS
)
LATEST_SQL = """
    select l.* exclude (id, "at") from asked a asof left join log l
    on a.id = l.id and a.now >= l."at" order by a.row
"""
WINDOWS_SQL = f"""
    select {_COUNTS_AND_SUMS} from asked a
    left join events e on a.id = e.user_id and e."at" <= a.now group by a.row order by a.row
"""


def polars_latest(log: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """``join_asof`` on sorted tables, rows back in order."""
    left = asked.rename({NOW: "at"}).with_row_index().sort("at")
    # check_sortedness: Polars cannot check within groups and warns; both sides are sorted above.
    joined = left.join_asof(
        log.sort("at"), on="at", by="id", strategy="backward", check_sortedness=False
    )
    return joined.sort("index")


def polars_windows(events: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """A join of all pairs, a filter, a group-by."""
    numbered = asked.with_row_index()
    pairs = numbered.join(events, left_on="id", right_on="user_id")
    visible = pairs.filter(pl.col("at") <= pl.col(NOW))
    inside = {days: pl.col("at") > pl.col(NOW) - timedelta(days=days) for days in WINDOWS_DAYS}
    counts = [inside[days].sum().alias(f"c{days}") for days in WINDOWS_DAYS]
    sums = [pl.col("f0").filter(inside[d]).sum().alias(f"s{d}") for d in WINDOWS_DAYS]
    grouped = visible.group_by("index").agg(*counts, *sums)
    return numbered.join(grouped, on="index", how="left", maintain_order="left").fill_null(0)


def duckdb_answers(sql: str, asked: pl.DataFrame, **tables: pl.DataFrame) -> pl.DataFrame:
    """A query over the tables in this process, on two threads."""
    import duckdb

    numbered: Any = asked.rename({NOW: "now"}).with_row_index("row")
    with duckdb.connect(config={"threads": 2}) as connection:
        for name, table in {"asked": numbered, **tables}.items():
            connection.register(name, table.to_arrow())
        answers: pl.DataFrame = connection.sql(sql).pl()
        return answers
