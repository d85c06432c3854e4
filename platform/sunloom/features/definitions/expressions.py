"""Chalk's underscore expressions to plan expressions, with types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from chalk.features.underscore import (
    DoubleUnderscore,
    Underscore,
    UnderscoreAttr,
    UnderscoreCall,
    UnderscoreCast,
    UnderscoreFunction,
    UnderscoreItem,
    UnderscoreRoot,
)

from sunloom.errors import DefinitionError, known_names_hint
from sunloom.features.definitions.aggregates import (
    AGGREGATIONS,
    WindowFilter,
    aggregate_dtype,
    combine_filters,
)
from sunloom.features.definitions.locations import refuse
from sunloom.features.functions import CASTS, FUNCTIONS
from sunloom.features.plan import Aggregate, Call, Column, Const, DType, Expr, Lookup, Now
from sunloom.features.types import EPOCH, arrow_dtype

_MICROSECOND = timedelta(microseconds=1)
_INSTEAD_OF = {
    "//": "Write F.cast(F.floor(a / b), pa.int64()).",
    "^": "Write F.power(a, b).",
}


def constant(value: Any) -> Const | None:
    """A literal, or None where the value has no plain form."""
    if value is None:
        return Const(value=None, dtype="null")
    if isinstance(value, bool):
        return Const(value=value, dtype="bool")
    if isinstance(value, int):
        return Const(value=value, dtype="int64") if -(2**63) <= value < 2**63 else None
    if isinstance(value, float):
        return Const(value=value, dtype="float64") if math.isfinite(value) else None
    if isinstance(value, str):
        return Const(value=value, dtype="string")
    if isinstance(value, timedelta):
        return Const(value=value // _MICROSECOND, dtype="duration")
    if isinstance(value, datetime) and value.tzinfo is not None:
        return Const(value=(value.astimezone(UTC) - EPOCH) // _MICROSECOND, dtype="datetime")
    return None


class ExpressionBinder:
    """Binds the expressions of one feature.

    Args:
        feature: The chalkpy feature that the expression belongs to.
        scope: The class that ``_`` stands for; the feature's own, or inside an aggregate the
            joined one.
    """

    def __init__(self, feature: Any, scope: Any = None) -> None:
        self.feature = feature
        self.scope = scope if scope is not None else feature.features_cls
        self.is_inside = scope is not None

    def bind(self, raw: Any) -> Expr:
        """The expression as a plan expression.

        Raises:
            DefinitionError: A part of it has no meaning here.
        """
        if not isinstance(raw, Underscore):
            return self._bind_literal(raw)
        if isinstance(raw, UnderscoreAttr):
            return self._bind_attr(raw)
        if isinstance(raw, UnderscoreItem):
            return self._bind_item(raw)
        if isinstance(raw, UnderscoreCast):
            return self._bind_cast(raw)
        if isinstance(raw, UnderscoreFunction):
            return self._bind_function(raw)
        if isinstance(raw, UnderscoreCall):
            return self._bind_call(raw)
        if isinstance(raw, DoubleUnderscore):
            raise self._refuse("`__` is not supported", "Join the classes and use `_`.", raw)
        raise self._refuse(f"`{raw}` alone is no value", "Name a feature: `_.x`.", raw)

    def _refuse(self, construct: str, instead: str, raw: Any = None) -> DefinitionError:
        return refuse(self.feature, construct, instead, raw)

    def _bind_literal(self, value: Any) -> Const:
        found = constant(value)
        if found is None:
            raise self._refuse(
                f"the literal {value!r} has no plain form",
                "Use a finite number, a string, a boolean, a timedelta or a UTC datetime.",
            )
        return found

    def _bind_attr(self, raw: UnderscoreAttr) -> Expr:
        parent, name = raw._chalk__parent, raw._chalk__attr
        if raw._chalk__version is not None:
            raise self._refuse(f"the pinned version {raw}", "Name the feature itself.", raw)
        if isinstance(parent, UnderscoreRoot):
            if name == "chalk_now":
                return Now()
            if name == "chalk_window":
                return WindowFilter.start(self.feature, raw)
            return self._column(self._scalar(self.scope, name, raw))
        return self._bind_path(parent, name, raw)

    def _bind_path(self, parent: Any, name: str, raw: Any) -> Expr:
        join = self._feature_at(parent)
        if join is None or not join.is_has_one:
            raise self._refuse(
                f"`{raw}` does not lead through a has-one",
                "Write `_.other.feature`, or aggregate a has-many: `_.many[_.x].sum()`.",
                raw,
            )
        if self.is_inside:
            raise self._refuse(
                f"`{raw}` follows a join inside an aggregate",
                f"Give {self.scope.__name__} a feature `x = {raw}` and aggregate that.",
                raw,
            )
        target = self._scalar(join.joined_class, name, raw)
        return Lookup(join=join.name, feature=target.name, dtype=self._dtype(target))

    def _bind_item(self, raw: UnderscoreItem) -> Expr:
        parent, keys = raw._chalk__parent, raw._chalk__key
        if isinstance(parent, UnderscoreAttr) and (windowed := self._windowed(parent)) is not None:
            return self._bind_window(windowed, keys, parent, raw)
        raise self._refuse(
            f"`{raw}` is rows, not a value", f"Aggregate them: `{raw}.count()`.", raw
        )

    def _bind_window(self, windowed: Any, keys: Sequence[Any], parent: Any, raw: Any) -> Expr:
        seconds = self._window_seconds(keys, raw)
        known = windowed.window_durations
        if seconds not in known:
            raise self._refuse(
                f"{windowed.fqn} has no window of {seconds} s",
                f"Its windows in seconds: {', '.join(map(str, known))}.",
                raw,
            )
        name = f"{windowed.name}__{seconds}__"
        if isinstance(parent._chalk__parent, UnderscoreRoot):
            return self._column(self._scalar(self.scope, name, raw))
        return self._bind_path(parent._chalk__parent, name, raw)

    def _window_seconds(self, keys: Sequence[Any], raw: Any) -> int:
        from chalk.utils.duration import parse_chalk_duration_s

        key = keys[0] if len(keys) == 1 else None
        is_own = isinstance(key, UnderscoreAttr) and key._chalk__attr == "chalk_window"
        if is_own and self.feature.window_duration is not None:
            return int(self.feature.window_duration)
        if isinstance(key, timedelta):
            return int(key.total_seconds())
        try:
            return int(parse_chalk_duration_s(key))
        except (TypeError, ValueError, AttributeError) as error:
            raise self._refuse(
                f"`{raw}` does not name one window", 'Write `_.x["30d"]`.', raw
            ) from error

    def _bind_cast(self, raw: UnderscoreCast) -> Expr:
        value = self.bind(raw._chalk__value)
        target = arrow_dtype(raw._chalk__to_type)
        if target is None or target not in CASTS[value.dtype]:
            raise self._refuse(
                f"a cast from {value.dtype} to {raw._chalk__to_type} is not supported",
                "Cast between int64, float64 and bool, or int64 to string.",
                raw,
            )
        return Call(function="cast", args=(value,), dtype=target)

    def _bind_function(self, raw: UnderscoreFunction) -> Expr:
        name = raw._chalk__function_name
        if name not in FUNCTIONS or raw._chalk__kwargs:
            shown = name if not raw._chalk__kwargs else f"{name} with {list(raw._chalk__kwargs)}"
            raise self._refuse(
                f"function {shown!r} is not supported",
                _INSTEAD_OF.get(name) or known_names_hint(name, FUNCTIONS),
                raw,
            )
        args = tuple(self.bind(arg) for arg in raw._chalk__args)
        dtype = FUNCTIONS[name].result([arg.dtype for arg in args])
        if dtype is None:
            found = ", ".join(arg.dtype for arg in args)
            raise self._refuse(
                f"function {name!r} takes {FUNCTIONS[name].accepts}, not ({found})",
                "Cast the arguments with F.cast.",
                raw,
            )
        return Call(function=name, args=args, dtype=dtype)

    def _bind_call(self, raw: UnderscoreCall) -> Expr:
        method = raw._chalk__parent
        if not isinstance(method, UnderscoreAttr):
            raise self._refuse(f"the call `{raw}` is not supported", "", raw)
        name, rows = method._chalk__attr, method._chalk__parent
        many = self._has_many(rows)
        if many is None:
            raise self._refuse(
                f"`{raw}` calls {name!r} on something that is not a has-many",
                f"Aggregate a has-many: `_.many[_.x].{name}()`; functions are in chalk.functions.",
                raw,
            )
        if name not in AGGREGATIONS or raw._chalk__args or raw._chalk__kwargs:
            raise self._refuse(
                f"aggregation `{name}` is not supported"
                + (" with arguments" * bool(raw._chalk__args)),
                known_names_hint(name, AGGREGATIONS),
                raw,
            )
        return self._bind_aggregate(name, many, _keys(rows), raw)

    def _bind_aggregate(self, name: str, many: Any, keys: Sequence[Any], raw: Any) -> Expr:
        if self.is_inside:
            raise self._refuse(
                f"`{raw}` aggregates inside an aggregate",
                f"Give {self.scope.__name__} a feature of it, and aggregate that feature.",
                raw,
            )
        inside = ExpressionBinder(self.feature, many.joined_class)
        filters = [inside.bind(key) for key in keys if _is_filter(key)]
        values = [inside.bind(_unselected(key)) for key in keys if not _is_filter(key)]
        for key, bound in zip((k for k in keys if _is_filter(k)), filters, strict=True):
            if bound.dtype != "bool":
                raise self._refuse(
                    f"the filter `{key}` is {bound.dtype}, not boolean",
                    f"As a value, write `select({key})` from chalk.features.underscore.",
                    raw,
                )
        if len(values) > 1 or (not values and name != "count"):
            raise self._refuse(
                f"`{raw}` needs one value column, not {len(values)}",
                f"Write `_.{many.name}[_.x, _.y > 0].{name}()`.",
                raw,
            )
        value = values[0] if values else None
        dtype = aggregate_dtype(name, value.dtype if value else None)
        if dtype is None:
            raise self._refuse(
                f"`{name}` of {value.dtype if value else 'nothing'} is not supported",
                "Cast the value with F.cast.",
                raw,
            )
        time = next((f.name for f in many.joined_class.features if _is_time(f)), None)
        where, window = combine_filters(self.feature, filters, time, raw)
        self._check_row_only(many.joined_class, (value, *where), raw)
        # count counts rows, whatever the value is.
        kept = None if name == "count" else value
        return Aggregate(
            join=many.name, kind=name, value=kept, where=where, window=window, dtype=dtype
        )

    def _check_row_only(self, joined: Any, parts: Sequence[Expr | None], raw: Any) -> None:
        """Features of the joined rows must not depend on the moment: they are computed once."""
        from sunloom.features.plan import own_columns, walk

        waiting = {name for part in parts if part is not None for name in own_columns(part)}
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            seen.add(name)
            feature = next(f for f in joined.features if f.name == name)
            if feature.underscore_expression is None:
                continue
            inner = ExpressionBinder(feature).bind(feature.underscore_expression)
            if any(isinstance(node, Aggregate | Lookup | Now) for node in walk(inner)):
                raise self._refuse(
                    f"it aggregates {feature.fqn}, which depends on the moment or on other rows",
                    "Aggregate features that are read or computed from their own row.",
                    raw,
                )
            waiting |= own_columns(inner) - seen

    def _has_many(self, rows: Any) -> Any:
        base = rows._chalk__parent if isinstance(rows, UnderscoreItem) else rows
        found = self._feature_at(base)
        if found is not None and found.is_has_many:
            return found
        if isinstance(base, UnderscoreAttr):
            found = self._feature_at(base._chalk__parent)
            if found is not None and found.is_has_many and base is rows:
                return found
        return None

    def _windowed(self, raw: UnderscoreAttr) -> Any:
        parent = raw._chalk__parent
        if isinstance(parent, UnderscoreRoot):
            owner = self.scope
        else:
            join = self._feature_at(parent)
            owner = join.joined_class if join is not None and join.is_has_one else None
        if owner is None:
            return None
        found = next((f for f in owner.features if f.attribute_name == raw._chalk__attr), None)
        return found if found is not None and found.is_windowed else None

    def _feature_at(self, raw: Any) -> Any:
        if not isinstance(raw, UnderscoreAttr) or not isinstance(
            raw._chalk__parent, UnderscoreRoot
        ):
            return None
        features = self.scope.features
        return next((f for f in features if f.attribute_name == raw._chalk__attr), None)

    def _scalar(self, owner: Any, name: str, raw: Any) -> Any:
        found = next((f for f in owner.features if f.attribute_name == name), None)
        if found is None or found.is_autogenerated:
            known = [f.attribute_name for f in owner.features if not f.is_autogenerated]
            raise self._refuse(
                f"`{raw}`: {owner.__name__} has no feature {name!r}",
                known_names_hint(name, known),
                raw,
            )
        if found.is_windowed:
            seconds = found.window_durations[0]
            raise self._refuse(
                f"`{raw}` is windowed", f'Name one window: `{raw}["{seconds}s"]`.', raw
            )
        if found.is_has_many or found.is_has_one:
            raise self._refuse(
                f"`{raw}` is a join, not a value",
                f"Aggregate it: `{raw}.count()`" if found.is_has_many else f"Write `{raw}.x`.",
                raw,
            )
        return found

    def _column(self, feature: Any) -> Column:
        return Column(name=feature.name, dtype=self._dtype(feature))

    def _dtype(self, feature: Any) -> DType:
        from sunloom.features.definitions.binder import feature_dtype

        return feature_dtype(feature)


def _keys(rows: Any) -> Sequence[Any]:
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
