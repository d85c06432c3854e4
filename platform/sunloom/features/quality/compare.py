"""Drift of the checked columns against a reference, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from sunloom.config.validation import ValidationConfig
from sunloom.errors import DataError, known_names_hint
from sunloom.features.monitoring.drift import FeatureDrift, judge_columns
from sunloom.features.monitoring.psi import shares
from sunloom.features.quality.report import DriftShape
from sunloom.features.quality.rows import Rows

_MOST_VALUES = 100
_FOR_TEXT = frozenset({"psi", "jensenshannon", "kl_div"})


def compare(
    rows: Rows, reference: Rows, config: ValidationConfig, keys: Sequence[str]
) -> tuple[tuple[FeatureDrift, ...], dict[str, DriftShape]]:
    """Each compared column's drift and both its distributions.

    PSI reads one column at a time; what Evidently computes reads the compared columns together.

    Raises:
        DataError: A column that the rules name is not in the reference, or has no value.
    """
    reference = reference.declared(rows.types)
    bounds = {
        name: _bound(name, rows.dtype(name), config)
        for name in _compared(rows, reference, config, keys)
    }
    found: dict[str, FeatureDrift] = {}
    shapes: dict[str, DriftShape] = {}
    together = [name for name, (method, _) in bounds.items() if method != "psi"]
    for name in bounds:
        before, after = reference.column(name).to_frame(), rows.column(name).to_frame()
        if name not in together:
            found |= _judged(before, after, {name: bounds[name]})
        shapes[name] = _shape(before[name], after[name])
    if together:
        before, after = (
            pl.DataFrame([side.column(name) for name in together]) for side in (reference, rows)
        )
        found |= _judged(before, after, {name: bounds[name] for name in together})
    return tuple(found[name] for name in bounds), shapes


def _judged(
    before: pl.DataFrame, after: pl.DataFrame, bounds: dict[str, tuple[str, float]]
) -> dict[str, FeatureDrift]:
    return {one.feature: one for one in judge_columns(before, after, bounds)}


def _bound(name: str, dtype: pl.DataType, config: ValidationConfig) -> tuple[str, float]:
    own = config.drift_per_column.get(name)
    method: str = (own and own.method) or config.drift_method
    if not dtype.is_numeric() and method not in _FOR_TEXT:
        method = "psi"
    threshold = own.threshold if own and own.threshold is not None else config.drift_threshold
    return method, threshold


def _compared(
    rows: Rows, reference: Rows, config: ValidationConfig, keys: Sequence[str]
) -> Iterator[str]:
    for name in (*config.drift_columns, *config.drift_per_column):
        if name not in reference.schema:
            raise DataError(
                f"The reference {reference.name} has no column {name!r}.",
                known_names_hint(name, reference.schema),
                name,
            )
    aside = {*keys, *config.drift_exclude}
    for name in config.drift_columns or rows.schema:
        if config.drift_columns or (name not in aside and name in reference.schema):
            kinds = (rows.dtype(name), reference.dtype(name))
            if bool(config.drift_columns) or _is_comparable(name, kinds, rows, reference):
                yield name


def _is_comparable(
    name: str, kinds: tuple[pl.DataType, pl.DataType], rows: Rows, reference: Rows
) -> bool:
    if all(kind.is_numeric() for kind in kinds):
        return all(_has_value(side.column(name)) for side in (rows, reference))
    words = (pl.Boolean, pl.String, pl.Categorical, pl.Enum)
    if not all(isinstance(kind, words) for kind in kinds):
        return False
    before = reference.column(name)
    return (
        0 < before.n_unique() <= _MOST_VALUES
        and _has_value(before)
        and _has_value(rows.column(name))
    )


def _has_value(column: pl.Series) -> bool:
    given = column.drop_nulls()
    return bool(given.is_finite().any()) if given.dtype.is_float() else not given.is_empty()


def _shape(before: pl.Series, after: pl.Series) -> DriftShape:
    found = shares(before, after)
    cells: Any = found.cells
    return DriftShape(
        tuple(f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells),
        tuple(float(share) for share in found.reference),
        tuple(float(share) for share in found.current),
    )
