"""Drift of the checked columns against a reference, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import polars as pl

from sunloom.config.data import ValidationConfig
from sunloom.data.quality.batches import CheckedTable
from sunloom.data.quality.drift.compare import DriftBound, FeatureDrift, compare_columns
from sunloom.data.quality.drift.psi import has_value, shares
from sunloom.data.quality.report import DriftShape
from sunloom.errors import DataError, known_names_hint

# Free text has about a category a row: a distance between such distributions says nothing.
_MOST_VALUES = 100
# Wasserstein and KS compare ordered values, which text lacks: PSI replaces them there.
_FOR_TEXT = frozenset({"psi", "jensenshannon", "kl_div"})


def compare_with_reference(
    table: CheckedTable, reference: CheckedTable, config: ValidationConfig, keys: Sequence[str]
) -> tuple[tuple[FeatureDrift, ...], dict[str, DriftShape]]:
    """Each compared column's drift and both its distributions, one column in memory at a time.

    Raises:
        DataError: A column that the rules name is not in the reference, or has no value.
    """
    # Both sides in the same types, or a CSV reference would not compare with Parquet rows.
    reference = reference.with_types(table.types)
    drift: list[FeatureDrift] = []
    shapes: dict[str, DriftShape] = {}
    for name in _compared_columns(table, reference, config, keys):
        bound = DriftBound.resolve(
            config.drift_per_column.get(name), config.drift_method, config.drift_threshold
        )
        if not table.dtype(name).is_numeric() and bound.method not in _FOR_TEXT:
            bound = replace(bound, method="psi")
        before, after = reference.column(name).to_frame(), table.column(name).to_frame()
        drift += compare_columns(before, after, {name: bound})
        shapes[name] = _shape(before[name], after[name])
    return tuple(drift), shapes


def _compared_columns(
    table: CheckedTable, reference: CheckedTable, config: ValidationConfig, keys: Sequence[str]
) -> Iterator[str]:
    # Before any column is read: a misspelt name must not cost a pass over the table.
    for name in (*config.drift_columns, *config.drift_per_column):
        if name not in reference.schema:
            raise DataError(
                f"The reference {reference.name} has no column {name!r}.",
                known_names_hint(name, reference.schema),
                name,
            )
    for name in config.drift_columns:
        _require_same_kind(name, table, reference)
        yield name
    if config.drift_columns:
        return
    excluded = {*keys, *config.drift_exclude}
    for name in table.schema:
        is_candidate = name not in excluded and name in reference.schema
        if is_candidate and _are_comparable(name, table, reference):
            yield name


def _require_same_kind(name: str, table: CheckedTable, reference: CheckedTable) -> None:
    dtype, reference_dtype = table.dtype(name), reference.dtype(name)
    if dtype.is_numeric() != reference_dtype.is_numeric():
        raise DataError(
            f"validation.drift_columns: {name} is {dtype}, but {reference_dtype} in "
            f"{reference.name}.",
            "Give the column's type, or compare columns of one kind.",
            name,
        )


def _are_comparable(name: str, table: CheckedTable, reference: CheckedTable) -> bool:
    dtypes = (table.dtype(name), reference.dtype(name))
    if not (all(dtype.is_numeric() for dtype in dtypes) or all(map(_is_categorical, dtypes))):
        return False
    return has_value(table.column(name)) and is_comparable(reference.column(name))


def is_comparable(column: pl.Series) -> bool:
    """Whether a column of the reference is compared where the rules name none."""
    if _is_categorical(column.dtype):
        return has_value(column) and column.n_unique() <= _MOST_VALUES
    return column.dtype.is_numeric() and has_value(column)


def _is_categorical(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Boolean | pl.String | pl.Categorical | pl.Enum)


def _shape(before: pl.Series, after: pl.Series) -> DriftShape:
    both = shares(before, after)
    return DriftShape(
        labels=tuple(f"{c:g}" if isinstance(c, float) else str(c) for c in both.cells),
        reference=tuple(float(share) for share in both.reference),
        current=tuple(float(share) for share in both.current),
    )
