"""Vectors: tables of them, and the rows that others are near to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.embedding_steps import EmbeddingTable, NearestNeighbors
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.sample import Sample
from sunloom.preprocessing.column_kinds import require_kind
from sunloom.preprocessing.estimators.protocol import Estimator, FittedStep, Learnt, Schema, always
from sunloom.preprocessing.estimators.vector_files import read_vectors
from sunloom.preprocessing.operations.neighbours import Nearest, usable
from sunloom.preprocessing.operations.number_columns import array_of
from sunloom.preprocessing.operations.vector_lookup import VectorLookup


def _table(step: EmbeddingTable, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    read = read_vectors(step.table, step.key, step.vectors)
    unseen = 0.0 if step.unseen == "zeros" else None
    fitted = FittedStep()
    for name in columns:
        prefix = f"{name}_" if step.prefix is None else step.prefix
        names = tuple(f"{prefix}{part}" for part in read.table.columns)
        fitted.operations.append(VectorLookup(name, names, read.keys, read.table, unseen))
    return fitted


def _sample(step: NearestNeighbors, columns: Sequence[str], schema: Schema) -> Learnt:
    names = tuple(columns)
    if step.target is not None:
        require_kind(schema, [step.target], ("number", "bool"), step.type)
        names += (step.target,)
    return {"rows": Sample(names, step.max_rows, names)}


def _nearest(step: NearestNeighbors, columns: Sequence[str], learnt: Learnt) -> FittedStep:
    statistic = learnt["rows"]
    assert isinstance(statistic, Sample)
    rows, numbers = statistic.numbered()
    kept = usable(np.column_stack([array_of(rows, name) for name in rows.columns]))
    fitted = FittedStep()
    if statistic.total > rows.height:
        fitted.notes.append(f"neighbours are among {rows.height:,} of {statistic.total:,} rows")
    if not kept.all():
        fitted.notes.append(f"{int((~kept).sum()):,} rows lack a number and are no neighbours")
    whole = rows.filter(pl.Series(kept))
    if whole.height <= step.n_neighbors:
        raise DataError(
            f"n_neighbors is {step.n_neighbors}, but {whole.height} rows have all numbers.",
            "Lower it, impute missing values before, or fit on more rows.",
            "n_neighbors",
        )
    target = pl.Series([], dtype=pl.Float64)
    if step.target is not None:
        target = whole[step.target].cast(pl.Float64)
    fitted.operations.append(
        Nearest(
            tuple(columns),
            step.prefix,
            step.n_neighbors,
            step.metric,
            whole.select(pl.col(columns).cast(pl.Float64)),
            step.target or "",
            target,
            numbers.filter(pl.Series(kept)),
        )
    )
    return fitted


def _nothing(_step: Any, _columns: Sequence[str], _schema: Schema) -> Learnt:
    return {}


NEIGHBOURS: Mapping[str, Estimator] = {
    "embedding_table": Estimator(("category", "number"), _nothing, _table, always("category")),
    "nearest_neighbors": Estimator(("number", "bool"), _sample, _nearest, always("number")),
}
