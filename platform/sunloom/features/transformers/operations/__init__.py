"""What a fitted step does to rows: in a frame, and to one row in plain Python."""

from sunloom.features.transformers.operations.combine import Chain, Polynomial, Product, Ratio
from sunloom.features.transformers.operations.curves import Interpolate, Power
from sunloom.features.transformers.operations.hashing import Hash
from sunloom.features.transformers.operations.levels import Lookup, OneHot
from sunloom.features.transformers.operations.numeric import Affine, Bins, Drop, Fill, Indicator
from sunloom.features.transformers.operations.protocol import Operation, RowFunction, Training

__all__ = [
    "Affine",
    "Bins",
    "Chain",
    "Drop",
    "Fill",
    "Hash",
    "Indicator",
    "Interpolate",
    "Lookup",
    "OneHot",
    "Operation",
    "Polynomial",
    "Power",
    "Product",
    "Ratio",
    "RowFunction",
    "Training",
]
