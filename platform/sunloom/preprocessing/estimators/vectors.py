"""Estimators of vector steps: tables of vectors from files, and nearest neighbours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sunloom.config.preprocessing.steps import EmbeddingTable, NearestNeighbors
from sunloom.data.sources.table_files import require_columns
from sunloom.errors import DataError, UsageError
from sunloom.preprocessing.accumulators.values import TableSample
from sunloom.preprocessing.columns import array_of, require_kind
from sunloom.preprocessing.estimators.protocol import Accumulators, Estimator, FittedStep, target_of
from sunloom.preprocessing.operations.vectors import NearestRows, VectorLookup, is_usable


def read_vectors(
    path: Path, key: str | None = None, vectors: Sequence[str] | None = None
) -> tuple[pl.Series, pl.DataFrame]:
    """Read and check a table of vectors by key.

    Args:
        path: A ``.parquet`` or ``.safetensors`` file.
        key: Column, tensor or metadata entry with the keys. When empty: Parquet's first column, or
            the row's number.
        vectors: Number columns, one column of lists, or one tensor; all but the key when empty.

    Returns:
        The keys, int64 or text, unique, none missing; and a row per key, with a finite Float32 or
        Float64 column per dimension, named as in the file.

    Raises:
        UsageError: There is no such file.
        DataError: It cannot be read, or a key or number in it cannot be used.
    """
    if not path.is_file():
        raise UsageError(f"There is no table of vectors {path}.", "Name the file.", "table")
    try:
        # Errors of the reading libraries become ours: a wrong file is the user's to correct.
        read = _read_safetensors if path.suffix == ".safetensors" else _read_parquet
        keys, table = read(path, key, vectors)
    except (OSError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read as a table of vectors: {error}") from error
    return _check_keys(path, keys, table).alias(""), _check_numbers(path, keys, table)


def _read_parquet(
    path: Path, key: str | None, vectors: Sequence[str] | None
) -> tuple[pl.Series, pl.DataFrame]:
    schema = pl.read_parquet_schema(path)
    name = next(iter(schema)) if key is None else key
    columns = [n for n in schema if n != name] if vectors is None else list(vectors)
    require_columns(pl.Schema(schema), [name, *columns], f"The table {path}")
    frame = pl.read_parquet(path, columns=[name, *columns])
    lists = [n for n in columns if isinstance(frame.schema[n], pl.List | pl.Array)]
    if lists and len(columns) > 1:
        raise ValueError(f"{lists[0]} holds lists: it must be the only one of vectors")
    return frame[name], _spread_lists(frame[lists[0]]) if lists else frame.select(columns)


def _spread_lists(column: pl.Series) -> pl.DataFrame:
    """A column of lists of one length as columns 0, 1 and so on."""
    lists = column if isinstance(column.dtype, pl.List) else column.arr.to_list()
    lengths = lists.list.len().unique()
    if len(lengths) != 1 or lists.null_count():
        raise ValueError(f"the lists of {column.name} are not all of one length")
    return pl.DataFrame([lists.list.get(i).alias(str(i)) for i in range(int(lengths[0]))])


def _read_safetensors(
    path: Path, key: str | None, vectors: Sequence[str] | None
) -> tuple[pl.Series, pl.DataFrame]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = sorted(set(file.keys()) - {key})
            tensors = names if vectors is None else list(vectors)
            if len(tensors) != 1 or tensors[0] not in names:
                raise ValueError(f"vectors must be one of its tensors: {', '.join(names)}")
            table = file.get_tensor(tensors[0])
            keys = _tensor_keys(file, key, len(table))
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if table.ndim != 2:
        raise ValueError(f"{tensors[0]} has {table.ndim} dimensions, not two")
    return keys, pl.DataFrame(table, schema=[str(i) for i in range(table.shape[1])])


def _tensor_keys(file: Any, key: str | None, rows: int) -> pl.Series:
    if key is None:
        # Embedding matrices of models are indexed by token or entity number.
        return pl.Series(np.arange(rows, dtype=np.int64))
    if key in file.keys():  # noqa: SIM118 - no mapping, only this method
        return pl.Series(file.get_tensor(key))
    entry = (file.metadata() or {}).get(key)
    if entry is None:
        raise ValueError(f"it has neither a tensor nor a metadata entry {key!r}")
    return pl.Series(json.loads(entry))


def _check_keys(path: Path, keys: pl.Series, table: pl.DataFrame) -> pl.Series:
    """The keys as int64 or text."""
    if not len(keys) or not table.width:
        raise DataError(f"The table {path} has no vectors.", param="table")
    if len(keys) != table.height:
        raise DataError(f"The table {path} has {len(keys)} keys for {table.height} vectors.")
    if keys.dtype.is_integer():
        keys = keys.cast(pl.Int64)
    elif keys.dtype != pl.String:
        raise DataError(
            f"The keys of {path} ({keys.name or 'key'}) are {keys.dtype}.",
            "Whole numbers and text are keys.",
            "key",
        )
    if keys.null_count() or keys.n_unique() < len(keys):
        known = keys.drop_nulls()
        repeated = known.filter(known.is_duplicated())
        fault = "a missing one" if keys.null_count() else f"{repeated[0]!r} more than once"
        raise DataError(f"The keys of {path} hold {fault}.", "Keep one vector per key.", "key")
    return keys


def _check_numbers(path: Path, keys: pl.Series, table: pl.DataFrame) -> pl.DataFrame:
    """The vectors as finite floats."""
    for name, dtype in table.schema.items():
        if not (dtype.is_float() or dtype.is_integer()):
            raise DataError(f"{path}: {name} is {dtype}, not a number.", param="vectors")
    # Float32 stays: it is half of the artifact's size.
    is_narrow = all(dtype == pl.Float32 for dtype in table.dtypes)
    numbers = table.cast(pl.Float32 if is_narrow else pl.Float64)
    is_finite = pl.all_horizontal(pl.all().is_finite().fill_null(False))
    usable = numbers.select(is_finite).to_series()
    if not usable.all():
        raise DataError(
            f"The vector of {keys.filter(~usable)[0]!r} in {path} is not all numbers.",
            "Leave it out: its key is then unseen.",
            "vectors",
        )
    return numbers


def _build_lookup(
    step: EmbeddingTable, columns: Sequence[str], _accumulators: Accumulators
) -> FittedStep:
    keys, table = read_vectors(step.table, step.key, step.vectors)
    unseen = 0.0 if step.unseen == "zeros" else None
    operations = []
    for name in columns:
        prefix = f"{name}_" if step.prefix is None else step.prefix
        names = tuple(f"{prefix}{dimension}" for dimension in table.columns)
        operations.append(VectorLookup(name, names, keys, table, unseen))
    return FittedStep(operations)


def _sample_rows(step: NearestNeighbors, columns: Sequence[str], schema: pl.Schema) -> Accumulators:
    require_kind(schema, target_of(step), ("number", "bool"), step.type)
    names = (*columns, *target_of(step))
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
