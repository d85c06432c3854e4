"""The target by level and fold, for target encoding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.column_kinds import levels_of
from sunloom.preprocessing.tables.batches import Batch

MOST_CLASSES = 100
FOLD, LEVEL, CLASS, COUNT, MEAN, SQUARES = "fold", "level", "class", "count", "mean", "squares"
TargetType = Literal["auto", "continuous", "binary", "multiclass"]


@dataclass
class TargetLevels:
    """Rows with a target, counted by fold, level and class; moments where the target is a number.

    It begins with classes and goes over to moments at a fraction or at too many different values.

    Attributes:
        column: The column of levels.
        target: The target's column.
        cv: Folds.
        seed: Seed of the folds.
        target_type: What the target is taken for.
        without_target: Rows that do not count.
    """

    column: str
    target: str
    cv: int
    seed: int
    target_type: TargetType = "auto"
    without_target: int = 0
    _classes: pl.DataFrame | None = None
    _moments: pl.DataFrame | None = None
    _is_class: bool = field(default=True)

    def __post_init__(self) -> None:
        self._is_class = self.target_type != "continuous"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return (self.column, self.target)

    def update(self, chunk: Batch) -> None:
        """Take some rows in."""
        target = levels_of(chunk.rows[self.target])
        rows = pl.DataFrame(
            {
                FOLD: pl.Series(chunk.folds(self.cv, self.seed)).cast(pl.Int32),
                LEVEL: levels_of(chunk.rows[self.column]),
                CLASS: target,
            }
        )
        if target.null_count():
            self.without_target += target.null_count()
            rows = rows.filter(pl.col(CLASS).is_not_null())
        _refuse_infinite(rows[CLASS], self.target)
        if self._is_class and self._has_fractions(rows[CLASS]):
            self._go_over()
        if self._is_class:
            counted = rows.group_by(FOLD, LEVEL, CLASS).agg(pl.len().cast(pl.Int64).alias(COUNT))
            self._add_classes(counted)
        else:
            self._add_moments(_moments_of(rows))

    def merge(self, other: TargetLevels) -> None:
        """Take in what another one has learnt from other rows."""
        self.without_target += other.without_target
        if not other._is_class and self._is_class:
            self._go_over()
        if other._classes is not None:
            if self._is_class:
                self._add_classes(other._classes)
            else:
                self._add_moments(_moments_of_classes(other._classes))
        if other._moments is not None:
            self._add_moments(other._moments)

    def finish(self) -> tuple[list[str], list[pl.DataFrame]]:
        """Names of the classes ([""] for one number), and for each the moments by fold and level.

        A table has ``fold``, ``level``, ``count``, ``mean`` and ``squares``.
        """
        if self._is_class and self._classes is not None and self._classes.height:
            classes = self._classes[CLASS].unique().sort()
            if self._as_classes(classes):
                return self._by_class(classes)
            self._go_over()
        if self._moments is None or not self._moments.height:
            raise DataError(f"No row has a value of the target {self.target!r}.", param=self.target)
        return [""], [self._moments]

    def _as_classes(self, classes: pl.Series) -> bool:
        if self.target_type == "binary" and len(classes) > 2:
            raise DataError(
                f"The target {self.target!r} has {len(classes)} values, not two.",
                "Set target_type to multiclass or continuous.",
                self.target,
            )
        return self.target_type in ("binary", "multiclass", "auto")

    def _by_class(self, classes: pl.Series) -> tuple[list[str], list[pl.DataFrame]]:
        assert self._classes is not None
        multi = self.target_type == "multiclass" or len(classes) > 2
        wanted = list(classes) if multi else [classes[-1] if len(classes) == 2 else None]
        names = [f"_{_class_name(one)}" for one in wanted] if multi else [""]
        tables = []
        for one in wanted:
            hit = pl.col(CLASS).eq_missing(pl.lit(one, dtype=classes.dtype))
            tables.append(_moments_of_classes(self._classes, hit.cast(pl.Float64)))
        return names, tables

    def _has_fractions(self, values: pl.Series) -> bool:
        return values.dtype == pl.Float64 and bool((values != values.round()).any())

    def _add_classes(self, part: pl.DataFrame) -> None:
        parts = [part] if self._classes is None else [self._classes, part]
        joined = pl.concat(parts).group_by(FOLD, LEVEL, CLASS).agg(pl.col(COUNT).sum())
        self._classes = joined
        if joined[CLASS].n_unique() > MOST_CLASSES and self.target_type != "multiclass":
            self._go_over()

    def _go_over(self) -> None:
        """From classes to moments."""
        if self.target_type in ("binary", "multiclass"):
            raise DataError(
                f"The target {self.target!r} holds fractions or too many values for classes.",
                "Set target_type: continuous.",
                self.target,
            )
        held, self._classes, self._is_class = self._classes, None, False
        if held is not None:
            if held[CLASS].dtype == pl.String:
                raise DataError(
                    f"The target {self.target!r} has more than {MOST_CLASSES} classes.",
                    "Choose another target, or set target_type: multiclass.",
                    self.target,
                )
            self._add_moments(_moments_of_classes(held))

    def _add_moments(self, part: pl.DataFrame) -> None:
        parts = [part] if self._moments is None else [self._moments, part]
        self._moments = merged_moments(pl.concat(parts), [FOLD, LEVEL])


def merged_moments(table: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Chan's formula over the rows of each group."""
    mean = (pl.col(COUNT) * pl.col(MEAN)).sum() / pl.col(COUNT).sum()
    gap = (pl.col(COUNT) * (pl.col(MEAN) - mean).pow(2)).sum()
    grouped = table.group_by(by) if by else table.group_by(pl.lit(0).alias("all"))
    return (
        grouped.agg(
            pl.col(COUNT).sum(),
            mean.alias("merged"),
            (pl.col(SQUARES).sum() + gap).alias(SQUARES),
        )
        .rename({"merged": MEAN})
        .select(*by, COUNT, MEAN, SQUARES)
    )


def _moments_of(rows: pl.DataFrame) -> pl.DataFrame:
    value = pl.col(CLASS).cast(pl.Float64)
    return rows.group_by(FOLD, LEVEL).agg(
        pl.len().cast(pl.Int64).alias(COUNT),
        value.mean().alias(MEAN),
        (value - value.mean()).pow(2).sum().alias(SQUARES),
    )


def _moments_of_classes(classes: pl.DataFrame, value: pl.Expr | None = None) -> pl.DataFrame:
    """Moments of a value of the class, by default the class as a number."""
    number = pl.col(CLASS).cast(pl.Float64) if value is None else value
    rows = classes.with_columns(number.alias(MEAN), pl.lit(0.0).alias(SQUARES))
    return merged_moments(rows, [FOLD, LEVEL])


def _class_name(one: object) -> str:
    # As numpy prints what scikit-learn's classes_ hold.
    return str(np.bool_(one)) if isinstance(one, bool) else str(one)


def _refuse_infinite(values: pl.Series, target: str) -> None:
    if values.dtype == pl.Float64 and bool(values.is_infinite().any()):
        raise DataError(f"The target {target!r} holds an infinite value.", param=target)
