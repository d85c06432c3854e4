"""Binding of aggregations over has-many joins."""

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
from sunloom.features.definitions.aggregate_rules import aggregate_dtype, read_arguments
from sunloom.features.definitions.scope import Binder, event_time_of
from sunloom.features.definitions.windows import split_filters
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
        outer: Binds the expression around the aggregation.
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
        arguments = read_arguments(name, args, kwargs)
        if isinstance(arguments, str):
            raise self._refuse(
                f"the arguments of `{name}` in `{self._raw}` are not supported",
                f"`{name}` takes {arguments}.",
            )
        scope = self._outer.scope
        if scope.is_inside:
            raise self._refuse(
                f"`{self._raw}` aggregates inside an aggregate",
                f"Give {scope.owner.__name__} a feature of it, and aggregate that feature.",
            )
        inside = self._outer.for_joined_class(self._many.joined_class)
        filters = [self._bind_filter(inside, key) for key in keys if _is_filter(key)]
        value = self._bind_value(inside, name, [key for key in keys if not _is_filter(key)])
        time = event_time_of(self._many.joined_class)
        where, window = split_filters(scope.feature, filters, time, self._raw)
        by = self._bind_by(inside, arguments.by) if arguments.by is not None else None
        self._check_rows_alone((value, by, *where))
        dtype = aggregate_dtype(name, value.dtype if value else None)
        if dtype is None:
            raise self._refuse(
                f"`{name}` of {value.dtype if value else 'nothing'} is not supported",
                "Cast the value with F.cast.",
            )
        return Aggregate(
            join=self._many.name,
            kind=cast(Aggregation, name),
            # count counts rows, whatever the value is.
            value=None if name == "count" else value,
            by=by,
            argument=arguments.number,
            where=where,
            window=window,
            dtype=dtype,
        )

    def _refuse(self, construct: str, instead: str) -> DefinitionError:
        return self._outer.scope.refuse(construct, instead, self._raw)

    def _bind_filter(self, inside: Binder, key: Any) -> Expr:
        condition = inside.bind(key)
        if condition.dtype == "bool":
            return condition
        raise self._refuse(
            f"the filter `{key}` is {condition.dtype}, not boolean",
            f"As a value, write `select({key})` from chalk.features.underscore.",
        )

    def _bind_value(self, inside: Binder, name: str, keys: Sequence[Any]) -> Expr | None:
        # What is no filter may still be wrapped in `select(…)`.
        values = [
            inside.bind(key._chalk__args[0] if isinstance(key, UnderscoreFunction) else key)
            for key in keys
        ]
        if len(values) > 1 or (not values and name != "count"):
            raise self._refuse(
                f"`{self._raw}` needs one value column, not {len(values)}",
                f"Write `_.{self._many.name}[_.x, _.y > 0].{name}()`.",
            )
        return values[0] if values else None

    def _bind_by(self, inside: Binder, raw: Any) -> Expr:
        by = inside.bind(raw)
        if is_scalar(by.dtype):
            return by
        raise self._refuse(f"`{raw}` is {by.dtype}, which has no order", "Compare a scalar column.")

    def _check_rows_alone(self, parts: Sequence[Expr | None]) -> None:
        """Features of the joined rows must not depend on the as-of time: they are computed once."""
        joined = self._many.joined_class
        waiting = {name for part in parts if part is not None for name in own_columns(part)}
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            seen.add(name)
            feature = next(f for f in joined.features if f.name == name)
            if feature.underscore_expression is None:
                continue
            # Bound here too: the joined class itself may not be bound yet.
            expression = self._outer.for_feature(feature).bind(feature.underscore_expression)
            if any(isinstance(node, Aggregate | Lookup | Now) for node in walk(expression)):
                raise self._refuse(
                    f"it aggregates {feature.fqn}, which depends on the as-of time or on other "
                    "rows",
                    "Aggregate features that are read or computed from their own row.",
                )
            waiting |= own_columns(expression) - seen


def value_keys(rows: Any) -> Sequence[Any]:
    """Value columns and filters; ``_.many.x`` is ``_.many[_.x]``."""
    if isinstance(rows, UnderscoreItem):
        return tuple(rows._chalk__key)
    if isinstance(rows, UnderscoreAttr) and isinstance(rows._chalk__parent, UnderscoreAttr):
        return (UnderscoreAttr(UnderscoreRoot(), rows._chalk__attr),)
    return ()


def _is_filter(key: Any) -> bool:
    # As in Chalk, a comparison or any other call is a filter unless it is selected.
    return isinstance(key, UnderscoreFunction) and key._chalk__function_name != "select"
