"""Functions of booleans: comparisons, connectives and choices."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.signature import (
    Function,
    comparable,
    order_key,
    takes,
)
from sunloom.features.expressions.literals import unify
from sunloom.features.plan.polars_dtypes import POLARS


def _comparison(function: Callable[[Any, Any], Any]) -> Function:
    return Function(
        "two values of one type",
        comparable,
        lambda args, _: function(args[0], args[1]),
        # Polars orders NaN after every number; Python compares false with it.
        lambda a, b: bool(function(order_key(a), order_key(b))),
    )


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return order_key(a) == order_key(b)


def _connective(decisive: bool) -> Callable[[bool | None, bool | None], bool | None]:
    # As in SQL: False decides an "and", True an "or", whatever the unknown other one is.
    def scalar(a: bool | None, b: bool | None) -> bool | None:
        if a is decisive or b is decisive:
            return decisive
        return None if a is None or b is None else not decisive

    return scalar


_UNEQUAL = Function(
    "two values of one type",
    comparable,
    lambda args, _: args[0].ne_missing(args[1]),
    lambda a, b: not _equal(a, b),
    sees_nulls=True,
)

LOGICAL: Mapping[str, Function] = {
    "<": _comparison(operator.lt),
    "<=": _comparison(operator.le),
    ">": _comparison(operator.gt),
    ">=": _comparison(operator.ge),
    # Equality is never null: null equals null and nothing else.
    "==": Function(
        "two values of one type",
        comparable,
        lambda args, _: args[0].eq_missing(args[1]),
        _equal,
        sees_nulls=True,
    ),
    "!=": _UNEQUAL,
    "distinct_from": _UNEQUAL,
    "&": Function(
        "two booleans",
        takes(("bool",), 2, "bool"),
        lambda args, _: args[0] & args[1],
        _connective(False),
        sees_nulls=True,
    ),
    "|": Function(
        "two booleans",
        takes(("bool",), 2, "bool"),
        lambda args, _: args[0] | args[1],
        _connective(True),
        sees_nulls=True,
    ),
    "~": Function(
        "a boolean", takes(("bool",), 1, "bool"), lambda args, _: ~args[0], operator.not_
    ),
    "between": Function(
        "three values of one type",
        lambda types: "bool" if len(types) == 3 and unify(types) else None,
        lambda args, _: (args[0] >= args[1]) & (args[0] <= args[2]),
        lambda value, low, high: order_key(low) <= order_key(value) <= order_key(high),
    ),
    "is_null": Function(
        "a value",
        lambda types: "bool" if len(types) == 1 else None,
        lambda args, _: args[0].is_null(),
        lambda value: value is None,
        sees_nulls=True,
    ),
    # A null condition counts as false.
    "if_else": Function(
        "a boolean and two values of one type",
        lambda types: (
            unify(types[1:]) if len(types) == 3 and types[0] in ("bool", "null") else None
        ),
        lambda args, call: (
            pl.when(args[0])
            .then(args[1].cast(POLARS[call.dtype]))
            .otherwise(args[2].cast(POLARS[call.dtype]))
        ),
        lambda condition, a, b: a if condition else b,
        sees_nulls=True,
    ),
    "coalesce": Function(
        "values of one type",
        unify,
        lambda args, call: pl.coalesce([arg.cast(POLARS[call.dtype]) for arg in args]),
        lambda *args: next((arg for arg in args if arg is not None), None),
        sees_nulls=True,
    ),
}
