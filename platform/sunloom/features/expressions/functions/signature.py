"""Signature of a function: its types, its form over a frame, and its form on plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sunloom.features.expressions.literals import unify
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Call, Const, Expr
from sunloom.features.plan.polars_dtypes import NUMBERS, POLARS, is_scalar

Types = Sequence[DType]
Columns = Sequence[pl.Expr]
TypeRule = Callable[[Types], DType | None]
Lowering = Callable[[Columns, Call], pl.Expr]
ArgumentCheck = Callable[[Sequence[Expr]], str | None]


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        accepts: The arguments that it takes, for error messages.
        result: The result's type, or None if the arguments' types do not fit.
        frame: Lowering to a Polars expression.
        scalar: The same function of plain Python values.
        sees_nulls: Whether it handles nulls itself; else a null argument makes the result null.
        check: Returns what to write instead if an argument's own value is unusable, else None.
    """

    accepts: str
    result: TypeRule
    frame: Lowering
    scalar: Callable[..., Any]
    sees_nulls: bool = False
    check: ArgumentCheck | None = None

    def evaluate(self, *args: Any) -> Any:
        """The function of plain values."""
        if not self.sees_nulls and any(arg is None for arg in args):
            return None
        return self.scalar(*args)


def python_function(
    accepts: str,
    result: TypeRule,
    scalar: Callable[..., Any],
) -> Function:
    """A function without a Polars form: over a frame, Python is called value by value."""
    return Function(accepts, result, map_scalar(scalar), scalar)


def map_scalar(scalar: Callable[..., Any]) -> Lowering:
    """The lowering that calls a function of plain values for each row without nulls."""

    def lower(args: Columns, call: Call) -> pl.Expr:
        dtype = POLARS[call.dtype]

        def evaluate_rows(rows: pl.Series) -> pl.Series:
            columns = [rows.struct.field(name).to_list() for name in rows.struct.fields]
            values = [
                None if any(arg is None for arg in row) else scalar(*row)
                for row in zip(*columns, strict=True)
            ]
            return pl.Series(values, dtype=dtype)

        # One struct rather than several inputs: map_batches of it broadcasts literals to rows.
        named = [arg.alias(f"a{position}") for position, arg in enumerate(args)]
        return pl.struct(named).map_batches(evaluate_rows, return_dtype=dtype)

    return lower


def takes(allowed: Sequence[DType], count: int, result: DType) -> TypeRule:
    """The rule that ``count`` arguments of the allowed types give the result type."""

    def rule(types: Types) -> DType | None:
        fits = len(types) == count and all(t in allowed or t == "null" for t in types)
        return result if fits else None

    return rule


def takes_exactly(*shapes: tuple[DType, ...], result: DType) -> TypeRule:
    """The rule that one of the listed argument lists gives the result type."""
    return lambda types: result if tuple(types) in shapes else None


def same_number(types: Types) -> DType | None:
    """One number gives a number of its type."""
    return unify(types) if len(types) == 1 and types[0] in NUMBERS else None


def wider_number(types: Types) -> DType | None:
    """Two numbers give the wider of their types."""
    return unify(types) if takes(NUMBERS, 2, "null")(types) else None


def comparable(types: Types) -> DType | None:
    """Two values of one type give a boolean."""
    # Lists and structs have no order, but any of them may be compared with the literal None.
    ordered = all(is_scalar(t) for t in types) or "null" in types
    return "bool" if len(types) == 2 and ordered and unify(types) is not None else None


def literal(call: Call, position: int) -> Any:
    """The value of an argument that the binder has checked to be a literal."""
    argument = call.args[position]
    assert isinstance(argument, Const)
    return argument.value


def is_nan(value: Any) -> bool:
    """Whether the value is the float NaN."""
    return isinstance(value, float) and math.isnan(value)


def order_key(value: Any) -> tuple[bool, Any]:
    """A sort key with the engine's order: NaN equals itself and is larger than every number."""
    return (True, 0) if is_nan(value) else (False, value)
