"""Percentiles, deviations, lists and the like over windows, against Polars and DuckDB, in one run.

    .venv/bin/python -m benchmarks.features.aggregations --write

Prints CPU seconds and ratios as JSON; ours / peer, so below 1 is faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.features.data import as_events, tables
from benchmarks.features.measure import circumstances, in_turn, report
from benchmarks.features.peers import duckdb_answers
from sunloom.features.definitions.open import plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW, Plan

DEFINITIONS = "benchmarks.features.aggregation_definitions"
RESULTS = Path(__file__).parents[1] / "results" / "aggregations.json"
WINDOW = timedelta(days=7)
KINDS = 20
_VALUE, _KIND = pl.col("f0"), pl.col("kind")
_KNOWN = 'a.id = e.meter_id and e."at" <= a.now and e."at" > a.now - interval 7 day'

PEERS: Mapping[str, tuple[pl.Expr, str]] = {
    "median": (
        _VALUE.sort().get(_VALUE.len() // 2),
        # The same place in the order: DuckDB's own quantile takes the one before.
        "list_sort(list(e.f0))[count(e.f0) // 2 + 1]",
    ),
    "deviation": (_VALUE.std(), "stddev_samp(e.f0)"),
    "largest": (_VALUE.max(), "max(e.f0)"),
    "kind_of_largest": (_KIND.sort_by("f0").last(), "arg_max(e.kind, e.f0)"),
    "kinds": (_KIND.n_unique(), "count(distinct e.kind)"),
    "most": (
        _KIND.value_counts(sort=True).struct.field("kind").head(3),
        "approx_top_k(e.kind, 3)",
    ),
    "every": (_VALUE.sort_by("at"), 'list(e.f0 order by e."at") filter (e.f0 is not null)'),
}
"""Each aggregation in Polars and in DuckDB, as a careful user would write it."""


def compared(readings: pl.DataFrame, asked: pl.DataFrame, repeats: int) -> dict[str, Any]:
    """CPU seconds of each aggregation by itself, and of all together."""
    plan = plan_of(DEFINITIONS, "bench_meter")
    names = {name: (name,) for name in PEERS} | {"all": tuple(PEERS)}
    return {
        shown: _of(_part(plan, chosen), readings, asked, chosen, repeats)
        for shown, chosen in names.items()
    }


def _part(plan: Plan, names: tuple[str, ...]) -> Plan:
    outputs = tuple(f"{name}__604800__" for name in names)
    return plan.model_copy(update={"outputs": outputs})


def _of(
    plan: Plan,
    readings: pl.DataFrame,
    asked: pl.DataFrame,
    names: tuple[str, ...],
    repeats: int,
) -> dict[str, Any]:
    runs: dict[str, Callable[[], pl.DataFrame]] = {
        "sunloom": lambda: FeatureEngine(plan, {"bench_reading": readings}).compute(asked),
        "polars": lambda: _polars(readings, asked, names),
        "duckdb": lambda: _duckdb(readings, asked, names),
    }
    times, frames = in_turn(runs, repeats)
    ours = frames["sunloom"].rename(lambda name: name.removesuffix("__604800__"))
    peers = [name for name in runs if name != "sunloom"]
    return {
        "cpu_s": times,
        "ratio": {name: round(times["sunloom"] / times[name], 3) for name in peers},
        "equal": all(_equal(ours, frames[peer], name) for peer in peers for name in names),
    }


def _polars(readings: pl.DataFrame, asked: pl.DataFrame, names: tuple[str, ...]) -> pl.DataFrame:
    numbered = asked.with_row_index()
    pairs = numbered.join(readings.drop("id"), left_on="id", right_on="meter_id")
    inside = (pl.col("at") <= pl.col(NOW)) & (pl.col("at") > pl.col(NOW) - WINDOW)
    grouped = pairs.filter(inside).group_by("index").agg(PEERS[n][0].alias(n) for n in names)
    return numbered.join(grouped, on="index", how="left", maintain_order="left")


def _duckdb(readings: pl.DataFrame, asked: pl.DataFrame, names: tuple[str, ...]) -> pl.DataFrame:
    chosen = ", ".join(f"{PEERS[name][1]} {name}" for name in names)
    sql = f"select {chosen} from asked a left join e on {_KNOWN} group by a.row order by a.row"
    return duckdb_answers(sql, asked, e=readings)


def _equal(mine: pl.DataFrame, peer: pl.DataFrame, name: str) -> bool:
    if name == "most":
        # Peers order equally frequent values by chance; how many there are is certain.
        return bool((mine[name].list.len() == peer[name].list.len()).fill_null(True).all())
    if name == "kinds":
        return bool((mine[name] == peer[name].fill_null(0)).all())
    if name == "deviation":
        return bool(((mine[name] - peer[name]).abs().fill_null(0) < 1e-9).all())
    return bool(mine[name].eq_missing(peer[name]).all())


def main() -> None:
    """Compare, print JSON and, if wanted, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    log, asked = tables(options.events, options.rows, options.keys)
    kinds = (log["f1"].rank("ordinal") % KINDS).cast(pl.Int64).alias("kind")
    readings = as_events(log).rename({"user_id": "meter_id"}).with_columns(kinds)
    result = {
        "events": options.events,
        "rows": options.rows,
        "keys": options.keys,
        **circumstances("polars", "duckdb", "numpy"),
        "seven_days": compared(readings, asked, options.repeats),
    }
    report(result, RESULTS if options.write else None)


if __name__ == "__main__":
    main()
