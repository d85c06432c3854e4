"""Rules of aggregations: the type that each gives, and the arguments that it takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from chalk.features.underscore import Underscore

from sunloom.features.plan.dtypes import DType, ListType
from sunloom.features.plan.polars_dtypes import NUMBERS, is_scalar

ValueRule = Callable[[DType], DType | None]


def _number_to(result: DType) -> ValueRule:
    return lambda value: result if value in NUMBERS else None


def _scalar_to(result: Callable[[DType], DType]) -> ValueRule:
    return lambda value: result(value) if is_scalar(value) else None


def _same_if_in(*allowed: DType) -> ValueRule:
    return lambda value: value if value in allowed else None


AGGREGATIONS: Mapping[str, ValueRule] = {
    "count": lambda _: "int64",
    "sum": _same_if_in("int64", "float64"),
    "mean": _number_to("float64"),
    "min": _same_if_in("int64", "float64", "datetime", "duration"),
    "max": _same_if_in("int64", "float64", "datetime", "duration"),
    "std": _number_to("float64"),
    "var": _number_to("float64"),
    "first": lambda value: value,
    "last": lambda value: value,
    "any": _same_if_in("bool"),
    "all": _same_if_in("bool"),
    "count_distinct": _scalar_to(lambda _: "int64"),
    "min_by": lambda value: value,
    "max_by": lambda value: value,
    "array_agg": lambda value: ListType(item=value),
    "approx_top_k": _scalar_to(lambda value: ListType(item=value)),
    "approx_percentile": _number_to("float64"),
}
"""Aggregation to the type that it gives for a value's type; None if it does not take the value."""

AGGREGATION_ALIASES: Mapping[str, str] = {
    "approx_count_distinct": "count_distinct",
    "stddev": "std",
    "stddev_sample": "std",
    "std_sample": "std",
    "var_sample": "var",
}
"""Chalk's other names of the same meaning; ours are exact where approximate ones are allowed."""


@dataclass(frozen=True)
class AggregationArguments:
    """The arguments in an aggregation's brackets.

    Attributes:
        by: The raw expression that ``min_by`` and ``max_by`` compare.
        number: The ``k`` of ``approx_top_k``, the quantile of ``approx_percentile``.
    """

    by: Any = None
    number: int | float | None = None


def read_arguments(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> AggregationArguments | str:
    """The aggregation's arguments; if they do not fit, what it takes instead."""
    parameters, accepts = _PARAMETERS.get(name, ((), "no arguments"))
    values = dict(zip(parameters, args, strict=False)) | dict(kwargs)
    if len(args) > len(parameters) or set(values) - set(parameters):
        return accepts
    if name == "approx_top_k":
        k, counters = values.get("k", 0), values.get("counters", sys.maxsize)
        # `counters` is the size of Chalk's sketch: checked, though an exact count needs none.
        fits = _is_whole(k) and k >= 1 and _is_whole(counters) and counters >= k
        return AggregationArguments(number=k) if fits else accepts
    if name == "approx_percentile":
        share = values.get("quantile")
        fits = isinstance(share, float | int) and not isinstance(share, bool) and 0 <= share <= 1
        return AggregationArguments(number=float(share)) if fits and share is not None else accepts
    if name in ("min_by", "max_by"):
        by = values.get("by")
        return AggregationArguments(by=by) if isinstance(by, Underscore) else accepts
    return AggregationArguments()


_PARAMETERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "min_by": (("by",), "one column to compare, such as `.min_by(_.at)`"),
    "max_by": (("by",), "one column to compare, such as `.max_by(_.at)`"),
    "approx_top_k": (
        ("k", "counters"),
        "`k`, a whole number above 0, and perhaps `counters`, at least `k`",
    ),
    "approx_percentile": (("quantile",), "`quantile`, a number from 0 to 1"),
}
"""Names of an aggregation's parameters, and the same for people."""


def _is_whole(value: Any) -> TypeGuard[int]:
    # To Python, True is an int.
    return isinstance(value, int) and not isinstance(value, bool)


def aggregate_dtype(name: str, value: DType | None) -> DType | None:
    """The aggregation's result type, or None if it does not take such a value."""
    # `count` may stand without a value.
    return AGGREGATIONS[name](value or "null")
