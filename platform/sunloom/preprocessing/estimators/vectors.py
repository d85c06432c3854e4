"""Estimators of vector steps: tables of vectors, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from sunloom.config.preprocessing.embedding_steps import EmbeddingTable, NearestNeighbors
from sunloom.errors import DataError
from sunloom.preprocessing.accumulators.sample import TableSample
from sunloom.preprocessing.column_kinds import require_kind
from sunloom.preprocessing.estimators.protocol import Accumulators, Estimator, FittedStep, Schema
from sunloom.preprocessing.estimators.vector_files import read_vectors
from sunloom.preprocessing.operations.neighbours import NearestRows, is_usable
from sunloom.preprocessing.operations.number_columns import array_of
from sunloom.preprocessing.operations.vector_lookup import VectorLookup


def _build_lookup(
    step: EmbeddingTable, columns: Sequence[str], _accumulators: Accumulators
) -> FittedStep:
    vectors = read_vectors(step.table, step.key, step.vectors)
    unseen = 0.0 if step.unseen == "zeros" else None
    operations = []
    for name in columns:
        prefix = f"{name}_" if step.prefix is None else step.prefix
        names = tuple(f"{prefix}{dimension}" for dimension in vectors.table.columns)
        operations.append(VectorLookup(name, names, vectors.keys, vectors.table, unseen))
    return FittedStep(operations)


def _sample_rows(step: NearestNeighbors, columns: Sequence[str], schema: Schema) -> Accumulators:
    names = tuple(columns)
    if step.target is not None:
        require_kind(schema, [step.target], ("number", "bool"), step.type)
        names += (step.target,)
    return {"rows": TableSample(names, step.max_rows, names)}


def _build_nearest(
    step: NearestNeighbors, columns: Sequence[str], accumulators: Accumulators
) -> FittedStep:
    sample = accumulators["rows"]
    assert isinstance(sample, TableSample)
    rows, numbers = sample.numbered_rows()
    # The target counts too: a neighbour without it would make the mean null.
    usable = is_usable(np.column_stack([array_of(rows, name) for name in rows.columns]))
    notes = []
    if sample.total > rows.height:
        notes.append(f"neighbours are among {rows.height:,} of {sample.total:,} rows")
    if not usable.all():
        notes.append(f"{int((~usable).sum()):,} rows lack a number and are no neighbours")
    neighbours = rows.filter(pl.Series(usable))
    if neighbours.height <= step.n_neighbors:
        raise DataError(
            f"n_neighbors is {step.n_neighbors}, but {neighbours.height} rows have all numbers.",
            "Lower it, impute missing values before, or fit on more rows.",
            "n_neighbors",
        )
    targets = pl.Series([], dtype=pl.Float64)
    if step.target is not None:
        targets = neighbours[step.target].cast(pl.Float64)
    operation = NearestRows(
        sources=tuple(columns),
        prefix=step.prefix,
        count=step.n_neighbors,
        metric=step.metric,
        table=neighbours.select(pl.col(columns).cast(pl.Float64)),
        target=step.target or "",
        targets=targets,
        rows=numbers.filter(pl.Series(usable)),
    )
    return FittedStep([operation], notes)


VECTORS: Mapping[str, Estimator] = {
    "embedding_table": Estimator(("category", "number"), _build_lookup),
    "nearest_neighbors": Estimator(("number", "bool"), _build_nearest, _sample_rows),
}
