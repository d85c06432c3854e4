"""Drift of the checked columns against a reference, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from sunloom.config.data.validation import ValidationConfig
from sunloom.data.quality.batches import CheckedTable
from sunloom.data.quality.drift.compare import FeatureDrift, judge_columns
from sunloom.data.quality.drift.psi import has_value, shares
from sunloom.data.quality.report import DriftShape
from sunloom.errors import DataError, known_names_hint

_MOST_VALUES = 100
_FOR_TEXT = frozenset({"psi", "jensenshannon", "kl_div"})


def compare(
    rows: CheckedTable, reference: CheckedTable, config: ValidationConfig, keys: Sequence[str]
) -> tuple[tuple[FeatureDrift, ...], dict[str, DriftShape]]:
    """Each compared column's drift and both its distributions, one column in memory at a time.

    Raises:
        DataError: A column that the rules name is not in the reference, or has no value.
    """
    reference = reference.declared(rows.types)
    found: list[FeatureDrift] = []
    shapes: dict[str, DriftShape] = {}
    for name in _compared(rows, reference, config, keys):
        bound = _bound(name, rows.dtype(name), config)
        before, after = reference.column(name).to_frame(), rows.column(name).to_frame()
        found += judge_columns(before, after, {name: bound})
        shapes[name] = _shape(before[name], after[name])
    return tuple(found), shapes


def _bound(name: str, dtype: pl.DataType, config: ValidationConfig) -> tuple[str, float]:
    own = config.drift_per_column.get(name)
    method: str = (own and own.method) or config.drift_method
    if not dtype.is_numeric() and method not in _FOR_TEXT:
        method = "psi"
    threshold = own.threshold if own and own.threshold is not None else config.drift_threshold
    return method, threshold


def _compared(
    rows: CheckedTable, reference: CheckedTable, config: ValidationConfig, keys: Sequence[str]
) -> Iterator[str]:
    for name in (*config.drift_columns, *config.drift_per_column):
        if name not in reference.schema:
            raise DataError(
                f"The reference {reference.name} has no column {name!r}.",
                known_names_hint(name, reference.schema),
                name,
            )
    aside = {*keys, *config.drift_exclude}
    for name in config.drift_columns:
        _require_same_kind(name, rows, reference)
        yield name
    for name in rows.schema if not config.drift_columns else ():
        if name not in aside and name in reference.schema and _is_comparable(name, rows, reference):
            yield name


def _require_same_kind(name: str, rows: CheckedTable, reference: CheckedTable) -> None:
    mine, normal = rows.dtype(name), reference.dtype(name)
    if mine.is_numeric() != normal.is_numeric():
        raise DataError(
            f"validation.drift_columns: {name} is {mine}, but {normal} in {reference.name}.",
            "Give the column's type, or compare columns of one kind.",
            name,
        )


def _is_comparable(name: str, rows: CheckedTable, reference: CheckedTable) -> bool:
    kinds = (rows.dtype(name), reference.dtype(name))
    if not (all(kind.is_numeric() for kind in kinds) or all(map(_is_word, kinds))):
        return False
    return has_value(rows.column(name)) and is_comparable(reference.column(name))


def is_comparable(column: pl.Series) -> bool:
    """Whether a column of the reference is compared where the rules name none."""
    if _is_word(column.dtype):
        return has_value(column) and column.n_unique() <= _MOST_VALUES
    return column.dtype.is_numeric() and has_value(column)


def _is_word(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.Boolean | pl.String | pl.Categorical | pl.Enum)


def _shape(before: pl.Series, after: pl.Series) -> DriftShape:
    found = shares(before, after)
    cells: Any = found.cells
    return DriftShape(
        tuple(f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells),
        tuple(float(share) for share in found.reference),
        tuple(float(share) for share in found.current),
    )
