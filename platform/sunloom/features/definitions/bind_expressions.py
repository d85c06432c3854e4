"""Binding of Chalk's underscore expressions and function calls to typed expressions of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
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
from chalk.streams import get_name_with_duration
from chalk.utils.duration import parse_chalk_duration_s

from sunloom.errors import DefinitionError, known_names_hint
from sunloom.features.definitions.bind_aggregates import (
    AGGREGATION_ALIASES,
    AGGREGATIONS,
    AggregateBinder,
    value_keys,
    window_start,
)
from sunloom.features.definitions.declarations import arrow_dtype
from sunloom.features.definitions.scope import Scope
from sunloom.features.expressions.functions.casts import CASTS, can_cast
from sunloom.features.expressions.functions.json_documents import JSON_VALUE, json_as
from sunloom.features.expressions.functions.nested import STRUCT_FIELD, field_of, pack_struct
from sunloom.features.expressions.functions.table import FUNCTION_ALIASES, FUNCTIONS
from sunloom.features.expressions.literals import constant
from sunloom.features.plan.dtypes import StructType
from sunloom.features.plan.expressions import Call, Const, Expr, Lookup, Now

_HAS_KEY = "map_key_exists"
_NO_RANDOM = "A feature has one value as of a time; draw random numbers elsewhere."
_INSTEAD_OF = {
    "//": "Write F.cast(F.floor(a / b), pa.int64()).",
    "^": "Write F.power(a, b).",
    "sort_order": "Compare one column.",
    "array_filter": "Filter where the list is made: `F.array_agg(_.many[_.x, _.x > 0])`.",
    "array_transform": "Compute the value where the list is made, in the joined class.",
    "rand": _NO_RANDOM,
    "random": _NO_RANDOM,
    "get_json_value_strict": "Write F.json_value.",
}
"""What to write instead of functions that have no counterpart under another name."""


class ExpressionBinder:
    """Binds the expressions of one feature.

    Args:
        feature: The chalkpy feature that the expression belongs to.
        owner: The class that ``_`` stands for; the feature's own, or inside an aggregate the
            joined one.
    """

    def __init__(self, feature: Any, owner: Any = None) -> None:
        self.feature = feature
        self.scope = Scope(feature, owner)

    def for_joined_class(self, owner: Any) -> ExpressionBinder:
        """A binder of the same feature in which ``_`` is a joined class."""
        return ExpressionBinder(self.feature, owner)

    def for_feature(self, feature: Any) -> ExpressionBinder:
        """A binder of another feature."""
        return ExpressionBinder(feature)

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
        return self.scope.refuse(construct, instead, raw)

    def _bind_literal(self, value: Any) -> Const:
        literal = constant(value)
        if literal is None:
            raise self._refuse(
                f"the literal {value!r} has no plain form",
                "Use a finite number, a string, a boolean, a timedelta or a UTC datetime.",
            )
        return literal

    def _bind_attr(self, raw: UnderscoreAttr) -> Expr:
        parent, name = raw._chalk__parent, raw._chalk__attr
        if raw._chalk__version is not None:
            # chalkpy keeps each version as a feature of its own.
            name = f"{name}_v{raw._chalk__version}"
        if isinstance(parent, UnderscoreRoot):
            if name == "chalk_now":
                return Now()
            if name == "chalk_window":
                return window_start(self.feature, raw)
            return self.scope.own_column(name, raw)
        return self._bind_path(parent, name, raw)

    def _bind_path(self, parent: Any, name: str, raw: Any) -> Expr:
        join = self.scope.feature_at(parent)
        if join is None or not join.is_has_one:
            return self._bind_field(parent, name, raw)
        # Aggregated rows are computed once for all as-of times, a joined value differs by time.
        if self.scope.is_inside:
            raise self._refuse(
                f"`{raw}` follows a join inside an aggregate",
                f"Give {self.scope.owner.__name__} a feature `x = {raw}` and aggregate that.",
                raw,
            )
        target = self.scope.scalar_feature(join.joined_class, name, raw)
        return Lookup(join=join.name, feature=target.name, dtype=self.scope.dtype_of(target, raw))

    def _bind_field(self, parent: Any, name: str, raw: Any) -> Expr:
        # Binding rows of a has-many as a value would raise an error about aggregates instead.
        value = self.bind(parent) if self.scope.has_many(parent) is None else None
        field = field_of(value, name) if value is not None else None
        if field is not None:
            return field
        if value is not None and isinstance(value.dtype, StructType):
            known = [field.name for field in value.dtype.fields]
            raise self._refuse(
                f"`{raw}`: the struct has no field {name!r}", known_names_hint(name, known), raw
            )
        raise self._refuse(
            f"`{raw}` does not lead through a has-one or a struct",
            "Write `_.other.feature`, or aggregate a has-many: `_.many[_.x].sum()`.",
            raw,
        )

    def _bind_item(self, raw: UnderscoreItem) -> Expr:
        parent, keys = raw._chalk__parent, raw._chalk__key
        windowed = (
            self.scope.windowed_feature(parent) if isinstance(parent, UnderscoreAttr) else None
        )
        if windowed is not None:
            return self._bind_window(windowed, keys, parent, raw)
        if self.scope.has_many(parent) is None:
            raise self._refuse(
                f"`{raw}` takes an item of something that is no window and no has-many",
                f"Write `F.element_at({parent}, 0)` for a list, `{parent}.x` for a struct.",
                raw,
            )
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
        # chalkpy keeps each window as a feature of its own.
        name = get_name_with_duration(windowed.name, seconds)
        if isinstance(parent._chalk__parent, UnderscoreRoot):
            return self.scope.own_column(name, raw)
        return self._bind_path(parent._chalk__parent, name, raw)

    def _window_seconds(self, keys: Sequence[Any], raw: Any) -> int:
        key = keys[0] if len(keys) == 1 else None
        is_own_window = isinstance(key, UnderscoreAttr) and key._chalk__attr == "chalk_window"
        # In a windowed feature, `_.other[_.chalk_window]` is the window of the same length.
        if is_own_window and self.feature.window_duration is not None:
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
        # A JSON value is read as the type it is cast to: a cast of its text would refuse 1e3.
        if target is not None and (typed := json_as(value, target)) is not None:
            return typed
        if target is None or not can_cast(value.dtype, target):
            known = ", ".join(map(str, CASTS.get(value.dtype, ()))) or "nothing else"
            raise self._refuse(
                f"a cast from {value.dtype} to {raw._chalk__to_type} is not supported",
                f"{value.dtype} becomes: {known}.",
                raw,
            )
        return Call(function="cast", args=(value,), dtype=target)

    def _bind_function(self, raw: UnderscoreFunction) -> Expr:
        first = raw._chalk__args[0] if raw._chalk__args else None
        if (many := self.scope.has_many(first)) is not None:
            # `F.max_by(_.many[_.x], _.y)` is `_.many[_.x].max_by(_.y)`.
            return self._bind_aggregate(
                raw._chalk__function_name, many, first, raw, raw._chalk__args[1:]
            )
        chalk_name = raw._chalk__function_name
        name = FUNCTION_ALIASES.get(chalk_name, chalk_name)
        self._check_function(name, raw)
        # Structs and maps have arguments that are no expressions: names, and a dictionary.
        if name == "struct_pack":
            names, *values = raw._chalk__args
            return pack_struct(names, [self.bind(value) for value in values])
        if name in ("map_get", _HAS_KEY):
            return self._bind_map(name, raw)
        args = tuple(self.bind(arg) for arg in raw._chalk__args)
        if any(isinstance(arg, Call) and arg.function == JSON_VALUE for arg in args):
            raise self._refuse(
                f"`{raw}` takes a JSON value without a type",
                'Cast it: F.cast(F.json_value(_.x, "$.a"), pa.float64()).',
                raw,
            )
        return self._call(name, args, raw)

    def _check_function(self, name: str, raw: UnderscoreFunction) -> None:
        # Fields are written `_.struct.field`; the function behind them is ours.
        known = FUNCTIONS.keys() - {STRUCT_FIELD} | {_HAS_KEY}
        kwargs = list(raw._chalk__kwargs)
        if name in known and not kwargs:
            return
        text = f"{name} with {kwargs}" if kwargs else name
        raise self._refuse(
            f"function {text!r} is not supported",
            _INSTEAD_OF.get(name) or known_names_hint(name, known),
            raw,
        )

    def _call(self, name: str, args: tuple[Expr, ...], raw: UnderscoreFunction) -> Call:
        function = FUNCTIONS[name]
        dtype = function.result([arg.dtype for arg in args])
        if dtype is None:
            types = ", ".join(str(arg.dtype) for arg in args)
            raise self._refuse(
                f"function {name!r} takes {function.accepts}, not ({types})",
                "Cast the arguments with F.cast.",
                raw,
            )
        instead = function.check(args) if function.check is not None else None
        if instead is not None:
            raise self._refuse(f"the arguments of `{raw}` are not supported", instead, raw)
        return Call(function=name, args=args, dtype=dtype)

    def _bind_map(self, name: str, raw: UnderscoreFunction) -> Expr:
        mapping, key = raw._chalk__args
        # chalkpy keeps a dictionary as a PyArrow map scalar.
        pairs = mapping.as_py() if hasattr(mapping, "as_py") else None
        keys = constant([key for key, _ in pairs]) if pairs else None
        values = constant([value for _, value in pairs]) if pairs else None
        if keys is None or values is None:
            raise self._refuse(
                f"`{raw}` looks up in something that is no literal map",
                "Write a dictionary of plain values.",
                raw,
            )
        if name == _HAS_KEY:
            return self._call("contains", (keys, self.bind(key)), raw)
        return self._call(name, (keys, values, self.bind(key)), raw)

    def _bind_call(self, raw: UnderscoreCall) -> Expr:
        method = raw._chalk__parent
        if not isinstance(method, UnderscoreAttr):
            raise self._refuse(f"the call `{raw}` is not supported", "", raw)
        name, rows = method._chalk__attr, method._chalk__parent
        many = self.scope.has_many(rows)
        if many is None:
            raise self._refuse(
                f"`{raw}` calls {name!r} on something that is not a has-many",
                f"Aggregate a has-many: `_.many[_.x].{name}()`; functions are in chalk.functions.",
                raw,
            )
        return self._bind_aggregate(name, many, rows, raw, raw._chalk__args)

    def _bind_aggregate(
        self, name: str, many: Any, rows: Any, raw: Any, args: Sequence[Any]
    ) -> Expr:
        name = AGGREGATION_ALIASES.get(name, name)
        if name not in AGGREGATIONS:
            raise self._refuse(
                f"aggregation `{name}` is not supported",
                known_names_hint(name, AGGREGATIONS),
                raw,
            )
        binder = AggregateBinder(self, many, raw)
        return binder.bind(name, value_keys(rows), args, raw._chalk__kwargs)
