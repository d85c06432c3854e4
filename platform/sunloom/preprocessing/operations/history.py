"""Operations on an entity's earlier rows: lags, windows, exponentially weighted means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.columns import as_numbers
from sunloom.preprocessing.operations.datetimes import naive_error
from sunloom.preprocessing.operations.protocol import Operation, RowFunction, Training

_ROW, _ENTITY = "__row__", "__entity__"


@dataclass(frozen=True)
class RowHistory(Operation):
    """Columns that look back over the entity's rows: never at a later one.

    Attributes:
        names: Columns that are made: for each source, each length, each aggregation.
        kind: What looks back.
        sources: Number columns.
        time: Timestamp column.
        by: Columns of the entity key.
        lengths: Rows back, or seconds of a window or half-life; one 0 where there is none.
        aggregations: What is computed; one empty text where there is no choice.
    """

    op: ClassVar[str] = "history"
    whole: ClassVar[bool] = True
    names: tuple[str, ...]
    kind: Literal["lags", "rolling", "expanding", "exponentially_weighted"]
    sources: tuple[str, ...]
    time: str
    by: tuple[str, ...] = ()
    lengths: tuple[float, ...] = (0,)
    aggregations: tuple[str, ...] = ("",)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (*self.sources, self.time, *self.by)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        return self.names

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """What each row of a whole table sees of the rows up to it.

        Raises:
            DataError: A timestamp is missing or has no time zone.
        """
        ordered = self._sort(frame)
        made = [(s, n, a) for s in self.sources for n in self.lengths for a in self.aggregations]
        if self.kind == "exponentially_weighted":
            table = pl.DataFrame(
                self._weighted_means(ordered, source, half_life).alias(name)
                for name, (source, half_life, _) in zip(self.names, made, strict=True)
            )
        else:
            table = ordered.select(
                self._expression(source, length, aggregation).alias(name)
                for name, (source, length, aggregation) in zip(self.names, made, strict=True)
            )
        if self.kind in ("expanding", "exponentially_weighted"):
            # Rows of one timestamp see each other: the last of them has seen all.
            keyed = ordered.select(*self.by, self.time).hstack(table)
            table = keyed.select(pl.col(n).last().over(*self.by, self.time) for n in self.names)
        original_order = ordered[_ROW].arg_sort()
        return [column.gather(original_order) for column in table]

    def _sort(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows by entity and time; equal timestamps keep their order in the table."""
        dtype = frame.schema[self.time]
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
            raise naive_error(self.time)
        if frame[self.time].null_count():
            raise DataError(f"Column {self.time!r} lacks the timestamp of a row.", param=self.time)
        numbers = [as_numbers(name) for name in self.sources if name not in (*self.by, self.time)]
        time = pl.col(self.time).cast(pl.Datetime("us"))
        rows = frame.select(*self.by, time, *numbers).with_row_index(_ROW)
        if not self.by:
            return rows.sort(self.time, _ROW)
        # In the order of their first rows: numbers are sorted twice as fast as texts.
        entity = pl.col(_ROW).first().over(self.by).alias(_ENTITY)
        return rows.with_columns(entity).sort(_ENTITY, self.time, _ROW)

    def _per_entity(self, value: pl.Expr) -> pl.Expr:
        return value.over(self.by) if self.by else value

    def _expression(self, source: str, length: float, aggregation: str) -> pl.Expr:
        column = pl.col(source)
        if self.kind == "lags":
            return self._per_entity(column.shift(int(length)))
        if self.kind == "expanding":
            return self._running_aggregate(column, aggregation)
        window = f"{round(length * 1_000_000)}us"
        if aggregation == "count":
            present = column.is_not_null().cast(pl.Int64)
            return self._per_entity(present.rolling_sum_by(self.time, window, closed="right"))
        aggregate = getattr(column, f"rolling_{aggregation}_by")
        value: pl.Expr = aggregate(self.time, window, closed="right")
        return self._per_entity(value.fill_null(0.0) if aggregation == "sum" else value)

    def _running_aggregate(self, column: pl.Expr, aggregation: str) -> pl.Expr:
        count = self._per_entity(column.is_not_null().cast(pl.Int64).cum_sum())
        total = self._per_entity(column.fill_null(0.0).cum_sum())
        running = {
            "count": count,
            "sum": total,
            "mean": pl.when(count > 0).then(total / count),
            "min": self._per_entity(column.cum_min().forward_fill()),
            "max": self._per_entity(column.cum_max().forward_fill()),
        }
        return running[aggregation]

    def _weighted_means(self, ordered: pl.DataFrame, source: str, half_life: float) -> pl.Series:
        # A loop: this mean is a total over its weight, where Polars' ewm_mean_by is recursive.
        times = ordered[self.time].cast(pl.Int64).to_list()
        values, starts = ordered[source].to_list(), self._starts(ordered)
        means: list[float | None] = []
        total, weight, last_time, per_us = 0.0, 0.0, 0, 1 / (half_life * 1_000_000)
        for time, value, is_new in zip(times, values, starts, strict=True):
            if is_new:
                # Set, not multiplied by 0: an infinite total would not go away.
                total, weight = 0.0, 0.0
            else:
                decay = 0.5 ** ((time - last_time) * per_us)
                total, weight = total * decay, weight * decay
            last_time = time
            if value is not None:
                total, weight = total + value, weight + 1.0
            means.append(total / weight if weight > 0 else None)
        return pl.Series(means, dtype=pl.Float64)

    def _starts(self, ordered: pl.DataFrame) -> list[bool]:
        """Whether each row is the first of its entity."""
        if not self.by or not ordered.height:
            return [row == 0 for row in range(ordered.height)]
        keys = ordered.select(pl.struct(self.by)).to_series()
        starts = (keys != keys.shift()).fill_null(True).to_list()
        # Whatever the comparison with the null that was shifted in before it gives.
        return [True, *starts[1:]]

    def row_function(self) -> RowFunction:
        """A refusal: one row has no history."""

        def refuse(_row: dict[str, Any]) -> None:
            raise DataError(
                f"{self.kind} needs the rows before: one row cannot be prepared.",
                "Define it as a windowed feature, which is served at any time.",
                self.kind,
            )

        return refuse
