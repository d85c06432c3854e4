"""Aggregations over has-many joins, bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from chalk.features.underscore import (
    UnderscoreAttr,
    UnderscoreFunction,
    UnderscoreItem,
    UnderscoreRoot,
)

from sunloom.errors import DefinitionError
from sunloom.features.definitions.aggregate_rules import (
    Arguments,
    aggregate_dtype,
    combine_filters,
    read_arguments,
)
from sunloom.features.definitions.scope import Binder
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import (
    Aggregate,
    Aggregation,
    Expr,
    Lookup,
    Now,
    own_columns,
    walk,
)
from sunloom.features.plan.polars_dtypes import is_scalar


class AggregateBinder:
    """Binds one aggregation over a has-many.

    Args:
        outer: Binds the expression that the aggregation stands in.
        many: The has-many feature.
        raw: The aggregation's source expression.
    """

    def __init__(self, outer: Binder, many: Any, raw: Any) -> None:
        self._outer = outer
        self._many = many
        self._raw = raw

    def bind(
        self, name: str, keys: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Aggregate:
        """The aggregation of that name over the rows that the keys project and filter."""
        given = self._arguments(name, args, kwargs)
        scope = self._outer.scope
        if scope.is_inside:
            raise self._refuse(
                f"`{self._raw}` aggregates inside an aggregate",
                f"Give {scope.owner.__name__} a feature of it, and aggregate that feature.",
            )
        inside = self._outer.within(self._many.joined_class)
        filters = [self._filter(inside, key) for key in keys if _is_filter(key)]
        value = self._value(name, [inside.bind(_unselected(k)) for k in keys if not _is_filter(k)])
        time = next((f.name for f in self._many.joined_class.features if _is_time(f)), None)
        where, window = combine_filters(scope.feature, filters, time, self._raw)
        by = self._by(inside, given)
        self._check_row_only((value, by, *where))
        return Aggregate(
            join=self._many.name,
            kind=cast(Aggregation, name),
            # count counts rows, whatever the value is.
            value=None if name == "count" else value,
            by=by,
            argument=given.number,
            where=where,
            window=window,
            dtype=self._dtype(name, value),
        )

    def _arguments(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        given = read_arguments(name, args, kwargs)
        if isinstance(given, Arguments):
            return given
        raise self._refuse(
            f"the arguments of `{name}` in `{self._raw}` are not supported",
            f"`{name}` takes {given}.",
        )

    def _by(self, inside: Binder, given: Arguments) -> Expr | None:
        if given.by is None:
            return None
        bound = inside.bind(given.by)
        if is_scalar(bound.dtype):
            return bound
        raise self._refuse(
            f"`{given.by}` is {bound.dtype}, which has no order", "Compare a scalar column."
        )

    def _refuse(self, construct: str, instead: str) -> DefinitionError:
        return self._outer.scope.refuse(construct, instead, self._raw)

    def _filter(self, inside: Binder, key: Any) -> Expr:
        bound = inside.bind(key)
        if bound.dtype == "bool":
            return bound
        raise self._refuse(
            f"the filter `{key}` is {bound.dtype}, not boolean",
            f"As a value, write `select({key})` from chalk.features.underscore.",
        )

    def _value(self, name: str, values: Sequence[Expr]) -> Expr | None:
        if len(values) > 1 or (not values and name != "count"):
            raise self._refuse(
                f"`{self._raw}` needs one value column, not {len(values)}",
                f"Write `_.{self._many.name}[_.x, _.y > 0].{name}()`.",
            )
        return values[0] if values else None

    def _dtype(self, name: str, value: Expr | None) -> DType:
        dtype = aggregate_dtype(name, value.dtype if value else None)
        if dtype is not None:
            return dtype
        raise self._refuse(
            f"`{name}` of {value.dtype if value else 'nothing'} is not supported",
            "Cast the value with F.cast.",
        )

    def _check_row_only(self, parts: Sequence[Expr | None]) -> None:
        """Features of the joined rows must not depend on the moment: they are computed once."""
        joined = self._many.joined_class
        waiting = {name for part in parts if part is not None for name in own_columns(part)}
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            seen.add(name)
            feature = next(f for f in joined.features if f.name == name)
            if feature.underscore_expression is None:
                continue
            inner = self._outer.of(feature).bind(feature.underscore_expression)
            if any(isinstance(node, Aggregate | Lookup | Now) for node in walk(inner)):
                raise self._refuse(
                    f"it aggregates {feature.fqn}, which depends on the moment or on other rows",
                    "Aggregate features that are read or computed from their own row.",
                )
            waiting |= own_columns(inner) - seen


def value_keys(rows: Any) -> Sequence[Any]:
    """Value columns and filters; ``_.many.x`` is ``_.many[_.x]``."""
    if isinstance(rows, UnderscoreItem):
        return tuple(rows._chalk__key)
    if isinstance(rows, UnderscoreAttr) and isinstance(rows._chalk__parent, UnderscoreAttr):
        return (UnderscoreAttr(UnderscoreRoot(), rows._chalk__attr),)
    return ()


def _is_filter(key: Any) -> bool:
    return isinstance(key, UnderscoreFunction) and key._chalk__function_name != "select"


def _unselected(key: Any) -> Any:
    return key._chalk__args[0] if isinstance(key, UnderscoreFunction) else key


def _is_time(feature: Any) -> bool:
    return bool(feature.is_feature_time and not feature.is_autogenerated)
