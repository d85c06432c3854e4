"""Point-in-time kernels on NumPy arrays.

Rows are sorted once by (key, time). The rows of a key that lie in a window are then one range
``[start, stop)`` found by binary search, and every aggregation is a function of such ranges:
O(n log n + q log n), however many rows a key has.
"""

from sunloom.features.kernels.arrays import Array, Bools, Floats, Ints, Ranges
from sunloom.features.kernels.distinct import first_occurrences, range_distinct
from sunloom.features.kernels.expansion import expanded
from sunloom.features.kernels.extremes import range_extreme_rows
from sunloom.features.kernels.frequencies import range_top
from sunloom.features.kernels.order import stable_order
from sunloom.features.kernels.percentiles import range_rows_in_order, range_select
from sunloom.features.kernels.sums import range_sums
from sunloom.features.kernels.timeline import Timeline
from sunloom.features.kernels.trees import RangeTree, RankIndex
from sunloom.features.kernels.variances import range_variances

__all__ = [
    "Array",
    "Bools",
    "Floats",
    "Ints",
    "RangeTree",
    "Ranges",
    "RankIndex",
    "Timeline",
    "expanded",
    "first_occurrences",
    "range_distinct",
    "range_extreme_rows",
    "range_rows_in_order",
    "range_select",
    "range_sums",
    "range_top",
    "range_variances",
    "stable_order",
]
