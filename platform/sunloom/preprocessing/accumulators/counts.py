"""Accumulators of counts: levels of a column, terms of texts, the target by level and fold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.protocol import ColumnAccumulator
from sunloom.preprocessing.columns import levels_of
from sunloom.preprocessing.tables import Batch
from sunloom.preprocessing.tokenizer import Tokenizer

FOLD, LEVEL, CLASS, COUNT, MEAN, SQUARES = "fold", "level", "class", "count", "mean", "squares"
TargetType = Literal["auto", "continuous", "binary", "multiclass"]
# Parts are joined beyond this many rows: not after each batch, which would group all levels anew.
_JOIN_ROWS = 50_000


@dataclass
class LevelCounts(ColumnAccumulator):
    """Counts of one column's levels; a missing value is a level.

    Attributes:
        column: The column.
        dtype: Type in which levels are kept.
        most: Levels above which fitting stops.
    """

    dtype: pl.DataType
    most: int = 1_000_000
    _parts: list[pl.DataFrame] = field(default_factory=list)

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        levels = pl.DataFrame({LEVEL: levels_of(batch.rows[self.column])})
        self._add(levels.group_by(LEVEL).agg(pl.len().cast(pl.Int64).alias(COUNT)))

    def merge(self, other: LevelCounts) -> None:
        """Add the rows that another one has seen."""
        for part in other._parts:
            self._add(part)

    def finish(self) -> pl.DataFrame:
        """``level`` and ``count``, sorted by level, the missing one last."""
        self._join()
        if not self._parts:
            return pl.DataFrame(schema={LEVEL: self.dtype, COUNT: pl.Int64})
        return self._parts[0].sort(LEVEL, nulls_last=True)

    def _add(self, part: pl.DataFrame) -> None:
        self._parts.append(part)
        if len(self._parts) > 1 and sum(p.height for p in self._parts) > _JOIN_ROWS:
            self._join()

    def _join(self) -> None:
        if len(self._parts) > 1:
            self._parts = [pl.concat(self._parts).group_by(LEVEL).agg(pl.col(COUNT).sum())]
        if self._parts and self._parts[0].height > self.most:
            raise DataError(
                f"Column {self.column!r} has more than {self.most:,} levels.",
                "It looks like a key: leave it out, or use feature_hasher.",
                self.column,
            )


@dataclass
class TermCounts(ColumnAccumulator):
    """Counts of one column's terms.

    Attributes:
        column: The column.
        tokenizer: How a text becomes terms.
        most: Terms above which fitting stops.
        texts: Rows; a missing text is one without terms.
        occurrences: Term to how often it occurs.
        document_counts: Term to the number of texts it occurs in.
    """

    tokenizer: Tokenizer
    most: int = 5_000_000
    texts: int = 0
    occurrences: Counter[str] = field(default_factory=Counter)
    document_counts: Counter[str] = field(default_factory=Counter)

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        self.texts += batch.rows.height
        for text in batch.rows[self.column].cast(str).to_list():
            counts = self.tokenizer.counts(text)
            self.occurrences.update(counts)
            self.document_counts.update(counts.keys())
        # After each batch: the memory grows with the terms.
        self._require_few()

    def merge(self, other: TermCounts) -> None:
        """Add the rows that another one has seen."""
        self.texts += other.texts
        self.occurrences.update(other.occurrences)
        self.document_counts.update(other.document_counts)
        self._require_few()

    def finish(self) -> TermCounts:
        """Itself."""
        return self

    def _require_few(self) -> None:
        if len(self.document_counts) > self.most:
            raise DataError(
                f"Column {self.column!r} has more than {self.most:,} terms.",
                "Use hashing_vectorizer, or shorter n-grams.",
                self.column,
            )


# More different numbers than this are a quantity and no classes.
MOST_CLASSES = 100


@dataclass
class TargetLevels:
    """Rows with a target, counted by fold, level and class; moments where the target is a number.

    It begins with classes and turns to moments at a fraction or at too many different values.

    Attributes:
        column: The column of levels.
        target: The target's column.
        cv: Folds.
        seed: Seed of the folds.
        target_type: Type of the target.
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

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch."""
        target = levels_of(batch.rows[self.target])
        if target.dtype.is_decimal():
            # Of a target, moments are taken: it is a quantity whatever its width.
            target = target.cast(pl.Float64)
        rows = pl.DataFrame(
            {
                # 32 bits are enough for folds: group keys stay small.
                FOLD: pl.Series(batch.folds(self.cv, self.seed)).cast(pl.Int32),
                LEVEL: levels_of(batch.rows[self.column]),
                CLASS: target,
            }
        )
        if target.null_count():
            self.without_target += target.null_count()
            rows = rows.filter(pl.col(CLASS).is_not_null())
        values = rows[CLASS]
        if values.dtype == pl.Float64:
            if values.is_infinite().any():
                raise DataError(
                    f"The target {self.target!r} holds an infinite value.", param=self.target
                )
            if self._is_class and (values != values.round()).any():
                self._turn_to_moments()
        if self._is_class:
            self._add_classes(
                rows.group_by(FOLD, LEVEL, CLASS).agg(pl.len().cast(pl.Int64).alias(COUNT))
            )
        else:
            self._add_moments(_moments_of(rows))

    def merge(self, other: TargetLevels) -> None:
        """Add the rows that another one has seen."""
        self.without_target += other.without_target
        if not other._is_class and self._is_class:
            self._turn_to_moments()
        if other._classes is not None:
            if self._is_class:
                self._add_classes(other._classes)
            else:
                self._add_moments(_moments_of_classes(other._classes))
        if other._moments is not None:
            self._add_moments(other._moments)

    def finish(self) -> dict[str, pl.DataFrame]:
        """The target's moments by fold and level; of each class, where there are more than two.

        Returns:
            The class as the end of an output's name (empty for one number) to a table with
            ``fold``, ``level``, ``count``, ``mean`` and ``squares``.
        """
        if self._is_class and self._classes is not None and self._classes.height:
            classes = self._classes[CLASS].unique().sort()
            if self.target_type == "binary" and len(classes) > 2:
                raise DataError(
                    f"The target {self.target!r} has {len(classes)} values, not two.",
                    "Set target_type to multiclass or continuous.",
                    self.target,
                )
            if self.target_type == "multiclass" or len(classes) > 2:
                # As numpy prints what scikit-learn's classes_ hold.
                names = [
                    f"_{np.bool_(value) if isinstance(value, bool) else value}" for value in classes
                ]
                return dict(zip(names, map(self._moments_of_class, classes), strict=True))
            # Of two classes the second one counts as 1; of one class none does.
            return {"": self._moments_of_class(classes[-1] if len(classes) == 2 else None)}
        if self._moments is None or not self._moments.height:
            raise DataError(f"No row has a value of the target {self.target!r}.", param=self.target)
        return {"": self._moments}

    def _moments_of_class(self, value: Any) -> pl.DataFrame:
        assert self._classes is not None
        is_class = pl.col(CLASS).eq_missing(pl.lit(value, dtype=self._classes.schema[CLASS]))
        return _moments_of_classes(self._classes, is_class.cast(pl.Float64))

    def _add_classes(self, part: pl.DataFrame) -> None:
        parts = [part] if self._classes is None else [self._classes, part]
        self._classes = pl.concat(parts).group_by(FOLD, LEVEL, CLASS).agg(pl.col(COUNT).sum())
        if self._classes[CLASS].n_unique() > MOST_CLASSES and self.target_type != "multiclass":
            self._turn_to_moments()

    def _turn_to_moments(self) -> None:
        if self.target_type in ("binary", "multiclass"):
            raise DataError(
                f"The target {self.target!r} holds fractions or too many values for classes.",
                "Set target_type: continuous.",
                self.target,
            )
        classes, self._classes, self._is_class = self._classes, None, False
        if classes is not None:
            if classes[CLASS].dtype == pl.String:
                raise DataError(
                    f"The target {self.target!r} has more than {MOST_CLASSES} classes.",
                    "Choose another target, or set target_type: multiclass.",
                    self.target,
                )
            self._add_moments(_moments_of_classes(classes))

    def _add_moments(self, part: pl.DataFrame) -> None:
        parts = [part] if self._moments is None else [self._moments, part]
        self._moments = merge_moments(pl.concat(parts), [FOLD, LEVEL])


def merge_moments(table: pl.DataFrame, by: list[str]) -> pl.DataFrame:
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
    return merge_moments(rows, [FOLD, LEVEL])
