"""CDNOW: every purchase that 23,570 customers of a music shop made from 1997-01 to 1998-06.

The log has one line a purchase and days for times. What is done with its oddities:

* 470 of 69,659 rows stand in 215 groups of exact duplicates (customer, day, quantity, amount).
  The log cannot tell a repeated record from a repeated purchase, so one row of each group stays
  as the purchase and the surplus 255 are quarantined as ``duplicate``.
* 80 purchases have amount 0, all of one item. They are visits that took place, so they stay and
  count; ``summary.json`` reports them under ``kept``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from sunloom.data.quarantine import POSITION, REASON
from sunloom.errors import DataError, DependencyError

HORIZON = timedelta(days=180)
_FIELDS = ("customer_id", "day", "quantity", "amount")
_ID, _DAY, _QUANTITY, _AMOUNT = (pl.col("fields").list.get(i, null_on_oob=True) for i in range(4))


@dataclass(frozen=True)
class CdnowPurchases:
    """The data set plugin ``cdnow``.

    Attributes:
        path: The log; the copy in the package ``lifetimes`` when empty.
    """

    path: Path | None = None
    name: str = "cdnow"
    table: str = "purchases"
    identity: Sequence[str] = ("customer_id", "timestamp", "quantity", "amount")
    label: str = "bought_180d"

    def raw(self) -> pl.DataFrame:
        """Lines of the log after its header; ``position`` is the line's number in the file."""
        path = self.path or packaged_log()
        if not path.is_file():
            raise DataError(f"The purchase log {path} is not there.")
        # A byte that is not UTF-8 then spoils its own line, not the file.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        frame = pl.DataFrame({"line": lines}, schema={"line": pl.String})
        # Numbered before the header is dropped: positions are line numbers in the file.
        return frame.with_row_index(POSITION, offset=1).cast({POSITION: pl.Int64}).slice(1)

    def parse(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Typed purchases; ``reason`` says why a line is not a purchase."""
        # Columns are padded with blanks of varying number.
        fields = raw.with_columns(pl.col("line").str.extract_all(r"\S+").alias("fields"))
        typed = fields.select(
            [
                # The log has no key; a line's number is the same at every reading.
                pl.col(POSITION).alias("id"),
                # Not strict: what cannot be parsed is null, and gets a reason instead of an error.
                _ID.cast(pl.Int64, strict=False).alias("customer_id"),
                _DAY.str.to_datetime("%Y%m%d", strict=False, time_unit="us")
                .dt.replace_time_zone("UTC")
                .alias("timestamp"),
                _QUANTITY.cast(pl.Int64, strict=False).alias("quantity"),
                _AMOUNT.cast(pl.Float64, strict=False).alias("amount"),
                pl.col(POSITION),
                (pl.col("fields").list.len() != len(_FIELDS)).alias("misshapen"),
            ]
        )
        return typed.with_columns(_reason().alias(REASON)).drop("misshapen")

    def notes(self, rows: pl.DataFrame) -> dict[str, int]:
        """Purchases of amount zero, which stay."""
        return {"zero_amount": rows.filter(pl.col("amount") == 0).height}

    def derive(self, main: pl.LazyFrame) -> Mapping[str, pl.LazyFrame]:
        """Customers with the time of their first purchase."""
        first = main.group_by("customer_id").agg(pl.col("timestamp").min().alias("first_seen"))
        return {"customers": first.rename({"customer_id": "id"}).sort("id")}

    def entities(self, tables: Mapping[str, pl.LazyFrame], as_of: datetime) -> pl.DataFrame:
        """Customers first seen by the as-of time."""
        known = tables["customers"].filter(pl.col("first_seen") <= as_of).select("id").sort("id")
        when = pl.lit(as_of).cast(pl.Datetime("us", "UTC")).alias("event_time")
        return known.with_columns(when).collect()

    def outcomes(self, tables: Mapping[str, pl.LazyFrame], rows: pl.DataFrame) -> pl.Series:
        """1 where the customer buys in the 180 days after ``event_time``, else 0."""
        spine = rows.select("id", "event_time").with_row_index("row")
        bought = (
            spine.lazy()
            .join(tables["purchases"], left_on="id", right_on="customer_id")
            .filter(
                # A purchase at the as-of time itself is already part of the features.
                pl.col("timestamp") > pl.col("event_time"),
                pl.col("timestamp") <= pl.col("event_time") + HORIZON,
            )
            .select("row")
            # One purchase decides, and the join has a row for each.
            .unique()
            .collect()
        )
        return spine["row"].is_in(bought["row"].implode()).cast(pl.Int64).alias(self.label)


def packaged_log() -> Path:
    """The log inside the package ``lifetimes``, found without importing it (it needs autograd).

    Raises:
        DependencyError: The package is not installed.
    """
    spec = find_spec("lifetimes")
    if spec is None or spec.origin is None:
        raise DependencyError(
            "The CDNOW log comes with the package lifetimes, which is not installed.",
            "pip install 'sunloom[retail]'",
        )
    return Path(spec.origin).parent / "datasets" / "CDNOW_master.txt"


def _reason() -> pl.Expr:
    return (
        # First: on a line of another shape the fields below stand in the wrong places.
        pl.when(pl.col("misshapen"))
        .then(pl.lit("not four fields"))
        .when(pl.col("customer_id").is_null())
        .then(pl.lit("customer is not a number"))
        .when(pl.col("timestamp").is_null())
        .then(pl.lit("day is not yyyymmdd"))
        .when(pl.col("quantity").is_null() | (pl.col("quantity") < 1))
        .then(pl.lit("quantity is not a positive number"))
        # Polars parses "nan" and "inf" as numbers.
        .when(pl.col("amount").is_null() | ~pl.col("amount").is_finite() | (pl.col("amount") < 0))
        .then(pl.lit("amount is not a number from zero up"))
        .otherwise(pl.lit(None, pl.String))
    )


CDNOW = CdnowPurchases()
