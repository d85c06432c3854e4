"""Steps of ``transformations`` about vectors: embedding tables, and nearest neighbours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sunloom.config.loading.model import Model


class EmbeddingTable(Model):
    """An entity's vector from a table, ``<column>_0`` …, in the column's place.

    The table is copied into the artifact. Columns of numbers keep their names:
    ``<column>_<name>``.
    """

    type: Literal["embedding_table"] = "embedding_table"
    columns: tuple[str, ...] = Field(min_length=1)
    """Columns of keys: whole numbers or text, as the table has them."""
    table: Path
    """A ``.parquet`` or ``.safetensors`` file."""
    key: str | None = None
    """Parquet: the column of keys; the first when empty. Safetensors: the tensor of whole numbers
    or the metadata entry (a JSON list) with the keys; when empty a row's key is its number."""
    vectors: tuple[str, ...] | None = None
    """Number columns, or one column of lists, or one tensor of two dimensions; all but the key
    when empty."""
    prefix: str | None = None
    """Leading part of the columns' names; the column's own name and ``_`` when empty."""
    unseen: Literal["zeros"] | None = None
    """Vector of a key that is missing, or that the table does not have; null when empty."""

    @model_validator(mode="after")
    def _check_table(self) -> EmbeddingTable:
        if self.table.suffix not in (".parquet", ".safetensors"):
            raise ValueError("table must be a .parquet or .safetensors file")
        if self.prefix is not None and len(self.columns) > 1:
            raise ValueError("prefix goes with one column only")
        return self


_RANGE = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)")
_MOST_COLUMNS = 100_000


def _expand_ranges(columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """``review_{0..383}`` as 384 names."""
    names: list[str] = []
    for name in columns or ():
        match = _RANGE.fullmatch(name)
        if match is None:
            names.append(name)
            continue
        first, last = int(match[2]), int(match[3])
        # A bound, so that a typing error in a number does not fill the memory with names.
        if first > last or last - first >= _MOST_COLUMNS:
            raise ValueError(f"the range in {name} must rise, to {_MOST_COLUMNS:,} columns at most")
        names += [f"{match[1]}{i}{match[4]}" for i in range(first, last + 1)]
    return columns if columns is None else tuple(names)


class NearestNeighbors(Model):
    """Distances to the nearest of the rows seen when fitting, appended; the search is exact.

    They are ``<prefix>_distance_0`` …, and the mean of the neighbours' target is
    ``<prefix>_<target>``. A row that was fitted is not its own neighbour when rows are fitted and
    transformed together. A row with a missing number has null in all of them; such a row, and one
    without target, is no neighbour of any. Of equally near rows the first counts.
    """

    type: Literal["nearest_neighbors"] = "nearest_neighbors"
    columns: Annotated[tuple[str, ...] | None, AfterValidator(_expand_ranges)] = None
    """The vector's number columns; all of them when empty. Scale them first. ``review_{0..383}``
    means 384 columns, such as those that an earlier step has made."""
    n_neighbors: int = Field(default=5, ge=1)
    """Neighbours per row."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance (scikit-learn's default, minkowski with p = 2, is euclidean)."""
    target: str | None = None
    """A number column whose mean over the neighbours is appended; never transformed."""
    # The search is exact: every row is compared with each of these, which the artifact holds.
    max_rows: int = Field(default=20_000, ge=10)
    """Rows that are kept; of more, a sample that depends on the row number only."""
    prefix: str = Field(default="neighbor", min_length=1)
    """Leading part of the columns' names."""
