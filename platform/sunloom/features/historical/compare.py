"""The comparison of engines: the same rows through Ray Data, equal to nine digits or not."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from sunloom.core.telemetry import get_logger
from sunloom.errors import DataError
from sunloom.features.historical.cluster import DEFAULT_PARTITIONS, historical_dataset
from sunloom.features.sources.scan import SourceScan

# Engines add floats in another order: their last digits differ.
RELATIVE_TOLERANCE = 1e-9
ABSOLUTE_TOLERANCE = 1e-12
_POSITION = "__position__"

_log = get_logger("features.compare")


@dataclass(frozen=True)
class EngineComparison:
    """What a comparison of two engines found.

    Attributes:
        rows: Rows that were compared.
        features: Columns that were compared.
        different: Those of them that differ.
    """

    rows: int
    features: int
    different: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether no column differs."""
        return not self.different


def compare_with_ray_data(
    scan: SourceScan,
    entities: pl.DataFrame,
    rows: pl.DataFrame,
    partitions: int = DEFAULT_PARTITIONS,
) -> EngineComparison:
    """Compute the entities' rows through Ray Data and compare them with another engine's.

    Args:
        scan: The plan and its sources.
        entities: Key and ``event_time`` of each row.
        rows: The same rows with their features, as the other engine computed them.
        partitions: Blocks of the dataset at least.

    Raises:
        ClusterError: No cluster is connected.
    """
    import ray

    # Blocks stand by partition: the position brings their rows in order again.
    numbered = entities.with_row_index(_POSITION)
    dataset = historical_dataset(scan, numbered, partitions)
    blocks = [pl.DataFrame(pl.from_arrow(block)) for block in ray.get(dataset.to_arrow_refs())]
    other = pl.concat(block for block in blocks if block.width).sort(_POSITION)
    if other.height != rows.height:
        raise DataError(f"Ray Data gave {other.height} rows for {rows.height} entities.")
    different = tuple(name for name in rows.columns if not is_close(rows[name], other[name]))
    for name in different:
        _log.error("the engines differ in column %s", name)
    return EngineComparison(rows.height, len(scan.plan.outputs), different)


def is_close(left: pl.Series, right: pl.Series) -> bool:
    """Whether values are the same: floats, also inside lists and structs, to nine digits."""
    if left.dtype != right.dtype or not (left.is_null() == right.is_null()).all():
        return False
    if isinstance(left.dtype, pl.List):
        is_as_long = (left.list.len() == right.list.len()).all()
        return is_as_long and is_close(left.explode(), right.explode())
    if isinstance(left.dtype, pl.Struct):
        return all(
            is_close(left.struct.field(name), right.struct.field(name))
            for name in left.struct.fields
        )
    if not left.dtype.is_float():
        return left.eq_missing(right).all()
    bound = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * right.abs()
    # Beside infinity or NaN any distance is within the bound; equal they are by ``==`` in Polars.
    is_near = right.is_finite() & ((left - right).abs() <= bound)
    return ((left == right) | is_near).all()
