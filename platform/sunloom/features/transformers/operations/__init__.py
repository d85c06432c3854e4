"""What a fitted step does to rows: in a frame, and to one row in plain Python."""

from collections.abc import Mapping

from sunloom.features.transformers.operations.combine import Chain, Polynomial, Product, Ratio
from sunloom.features.transformers.operations.hashing import Hash
from sunloom.features.transformers.operations.levels import Lookup, OneHot
from sunloom.features.transformers.operations.numeric import (
    Affine,
    Bins,
    Drop,
    Fill,
    Indicator,
    Interpolate,
    Power,
)
from sunloom.features.transformers.operations.protocol import Operation, RowFunction, Training

OPERATIONS: Mapping[str, type[Operation]] = {
    kind.op: kind
    for kind in (
        Affine,
        Bins,
        Chain,
        Drop,
        Fill,
        Hash,
        Indicator,
        Interpolate,
        Lookup,
        OneHot,
        Polynomial,
        Power,
        Product,
        Ratio,
    )
}
"""Name in an artifact to class: a closed list, so that reading one runs no foreign code."""

__all__ = [
    "OPERATIONS",
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
