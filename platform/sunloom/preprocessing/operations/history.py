"""Operations on the rows that one entity had before: lags, windows, decaying means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.operations.datetimes import naive_error
from sunloom.preprocessing.operations.number_columns import as_numbers
from sunloom.preprocessing.operations.protocol import RowFunction, Training

_ROW = "__row__"


@dataclass(frozen=True)
class RowHistory:
    """Columns that look back over the entity's rows: never at a later one.

    Attributes:
        names: Columns that are made: for each source, each length, each aggregation.
        kind: What looks back.
        sources: Number columns.
        time: Column with each row's moment.
        by: Columns that say whose row it is.
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

    @property
    def removes(self) -> tuple[str, ...]:
        """Columns that are gone afterwards."""
        return ()

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """What was there before each row of a whole table.

        Raises:
            DataError: A moment is missing or has no time zone.
        """
        ordered = self._ordered(frame)
        wanted = [(s, n, a) for s in self.sources for n in self.lengths for a in self.aggregations]
        if self.kind == "exponentially_weighted":
            made = [self._decayed(ordered, source, length) for source, length, _ in wanted]
            table = pl.DataFrame([one.alias(n) for n, one in zip(self.names, made, strict=True)])
        else:
            made_of = zip(self.names, wanted, strict=True)
            table = ordered.select(self._expression(*one).alias(name) for name, one in made_of)
        if self.kind in ("expanding", "exponentially_weighted"):
            # Rows of one moment see each other: the last of them has seen all.
            keyed = ordered.select(*self.by, self.time).hstack(table)
            table = keyed.select(pl.col(n).last().over(*self.by, self.time) for n in self.names)
        back = ordered[_ROW].arg_sort()
        return [column.gather(back) for column in table]

    def _ordered(self, frame: pl.DataFrame) -> pl.DataFrame:
        dtype = frame.schema[self.time]
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
            raise naive_error(self.time)
        if frame[self.time].null_count():
            raise DataError(f"Column {self.time!r} lacks the moment of a row.", param=self.time)
        numbers = [as_numbers(name) for name in self.sources if name not in (*self.by, self.time)]
        moment = pl.col(self.time).cast(pl.Datetime("us"))
        rows = frame.select(*self.by, moment, *numbers).with_row_index(_ROW)
        return rows.sort(*self.by, self.time, _ROW)

    def _over(self, value: pl.Expr) -> pl.Expr:
        return value.over(self.by) if self.by else value

    def _expression(self, source: str, length: float, what: str) -> pl.Expr:
        column = pl.col(source)
        if self.kind == "lags":
            return self._over(column.shift(int(length)))
        if self.kind == "rolling":
            return self._over(self._window(column, f"{round(length * 1_000_000)}us", what))
        return self._so_far(column, what)

    def _window(self, column: pl.Expr, size: str, what: str) -> pl.Expr:
        if what == "count":
            counted = column.is_not_null().cast(pl.Int64)
            return counted.rolling_sum_by(self.time, size, closed="right")
        function = getattr(column, f"rolling_{what}_by")
        found: pl.Expr = function(self.time, size, closed="right")
        return found.fill_null(0.0) if what == "sum" else found

    def _so_far(self, column: pl.Expr, what: str) -> pl.Expr:
        count = self._over(column.is_not_null().cast(pl.Int64).cum_sum())
        total = self._over(column.fill_null(0.0).cum_sum())
        made = {
            "count": count,
            "sum": total,
            "mean": pl.when(count > 0).then(total / count),
            "min": self._over(column.cum_min().forward_fill()),
            "max": self._over(column.cum_max().forward_fill()),
        }
        return made[what]

    def _decayed(self, ordered: pl.DataFrame, source: str, half_life: float) -> pl.Series:
        micros = ordered[self.time].cast(pl.Int64)
        keys = self._starts(ordered)
        values, total, weight = ordered[source].to_list(), 0.0, 0.0
        found: list[float | None] = []
        before, per_us = 0, 1 / (half_life * 1_000_000)
        for moment, value, is_new in zip(micros.to_list(), values, keys, strict=True):
            decay = 1.0 if is_new else 0.5 ** ((moment - before) * per_us)
            # From nothing, not times nothing: an infinite total would not go away.
            total, weight = (0.0, 0.0) if is_new else (total * decay, weight * decay)
            before = moment
            if value is not None:
                total, weight = total + value, weight + 1.0
            found.append(total / weight if weight > 0 else None)
        return pl.Series(found, dtype=pl.Float64)

    def _starts(self, ordered: pl.DataFrame) -> list[bool]:
        """Whether each row is the first of its entity."""
        if not self.by or not ordered.height:
            return [row == 0 for row in range(ordered.height)]
        keys = ordered.select(pl.struct(self.by)).to_series()
        found = (keys != keys.shift()).fill_null(True).to_numpy()
        first: Any = np.asarray(found)
        first[0] = True
        return [bool(one) for one in first]

    def scalar(self) -> RowFunction:
        """A refusal: one row has no history."""

        def refuse(_row: dict[str, Any]) -> None:
            raise DataError(
                f"{self.kind} needs the rows before: one row cannot be prepared.",
                "Define it as a windowed feature, which is served at any moment.",
                self.kind,
            )

        return refuse
