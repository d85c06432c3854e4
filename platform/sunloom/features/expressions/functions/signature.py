"""What one function of the table is, and the rules its types follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Call, Expr
from sunloom.features.plan.polars_dtypes import NUMBERS, POLARS, is_scalar, unify

Types = Sequence[DType]
Columns = Sequence[pl.Expr]
TypeRule = Callable[[Types], DType | None]


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        accepts: What it takes, for messages.
        result: The result's type, or None where the arguments' types do not fit.
        frame: Lowering to a Polars expression.
        scalar: Lowering to a plain Python function of plain values.
        sees_nulls: Whether it decides about nulls itself; else a null argument makes the result
            null.
        check: What to write instead where an argument's own value will not do, else None.
    """

    accepts: str
    result: TypeRule
    frame: Callable[[Columns, Call], pl.Expr]
    scalar: Callable[..., Any]
    sees_nulls: bool = False
    check: Callable[[Sequence[Expr]], str | None] | None = None

    def evaluate(self, *args: Any) -> Any:
        """The function of plain values."""
        if not self.sees_nulls and any(arg is None for arg in args):
            return None
        return self.scalar(*args)


def map_scalar(scalar: Callable[..., Any]) -> Callable[[Columns, Call], pl.Expr]:
    """A frame lowering that calls the scalar one: for what has no Polars form."""

    def frame(args: Columns, call: Call) -> pl.Expr:
        dtype = POLARS[call.dtype]

        def each(rows: pl.Series) -> pl.Series:
            columns = [rows.struct.field(name).to_list() for name in rows.struct.fields]
            values = [
                None if any(arg is None for arg in row) else scalar(*row)
                for row in zip(*columns, strict=True)
            ]
            return pl.Series(values, dtype=dtype)

        named = [arg.alias(f"a{place}") for place, arg in enumerate(args)]
        return pl.struct(named).map_batches(each, return_dtype=dtype)

    return frame


def takes(allowed: Sequence[DType], count: int, result: DType) -> TypeRule:
    """So many arguments of the allowed types give the result type."""

    def rule(types: Types) -> DType | None:
        fits = len(types) == count and all(t in allowed or t == "null" for t in types)
        return result if fits else None

    return rule


def takes_exactly(*shapes: tuple[DType, ...], result: DType) -> TypeRule:
    """One of the listed argument lists gives the result type."""
    return lambda types: result if tuple(types) in shapes else None


def same_number(types: Types) -> DType | None:
    """One number gives a number of its type."""
    return unify(types) if len(types) == 1 and types[0] in NUMBERS else None


def wider_number(types: Types) -> DType | None:
    """Two numbers give the wider of their types."""
    return unify(types) if takes(NUMBERS, 2, "null")(types) else None


def common_type(types: Types) -> DType | None:
    """Values of one type give that type."""
    return unify(types)


def comparable(types: Types) -> DType | None:
    """Two values of one type give a boolean."""
    ordered = all(is_scalar(t) for t in types) or "null" in types
    return "bool" if len(types) == 2 and ordered and unify(types) is not None else None


def is_nan(value: Any) -> bool:
    """Whether it is a float that is no number."""
    return isinstance(value, float) and math.isnan(value)


def order_key(value: Any) -> tuple[bool, Any]:
    """Sorts as the engine does: NaN equals itself and is larger than every number."""
    return (True, 0) if is_nan(value) else (False, value)
