"""Binding of chalkpy classes into a catalogue; what is not supported is refused."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from chalk.features.filter import Filter
from chalk.utils.duration import CHALK_MAX_TIMEDELTA

from sunloom.features.definitions.bind_aggregates import has_window_start
from sunloom.features.definitions.bind_expressions import ExpressionBinder
from sunloom.features.definitions.bind_resolvers import ResolvedFeature, bind_resolvers
from sunloom.features.definitions.declarations import (
    class_location,
    declared_features,
    event_time_of,
    feature_location,
    outline_class,
    refuse,
)
from sunloom.features.definitions.dependents import withdraw_dependents
from sunloom.features.definitions.failures import Failures
from sunloom.features.definitions.statements import FailedStatement
from sunloom.features.expressions.functions.json_documents import json_as
from sunloom.features.expressions.literals import constant, unify
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Const, Expr
from sunloom.features.plan.feature_sets import (
    Catalogue,
    ClassPlan,
    FeaturePlan,
    JoinPlan,
    Validation,
)
from sunloom.features.plan.polars_dtypes import is_scalar

# Their result is a whole number, whatever its type: an int feature may take it without a cast.
_WHOLE = frozenset({"round", "floor", "ceil", "sign"})
# PyArrow's constructors of types that it names otherwise.
_ARROW_CALLS = {
    "bool": "bool_()",
    "datetime": "timestamp('us')",
    "date": "date32()",
    "duration": "duration('us')",
    "bytes": "binary()",
}


def bind_catalogue(
    source: str,
    classes: Sequence[Any],
    resolvers: Sequence[Any],
    failed: Sequence[FailedStatement] = (),
) -> Catalogue:
    """Bind every features class of definitions.

    What cannot be bound is unavailable, as is every feature that needs it.

    Args:
        source: The definitions, as the user named them: workers import resolvers by it.
        classes: The definitions' chalkpy classes.
        resolvers: Their chalkpy resolvers.
        failed: Their statements that could not be executed.
    """
    failures = Failures()
    for statement, error in failed:
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            failures.add(error)
    outlines: dict[str, ClassPlan] = {}
    for item in classes:
        with failures.record(item.namespace):
            outlines[item.namespace] = outline_class(item, failures)
    resolved = bind_resolvers(source, resolvers, outlines, failed, failures)
    bound = [
        _bind_class(item, outlines[item.namespace], resolved, failures)
        for item in classes
        if item.namespace in outlines
    ]
    locations = {item.namespace: class_location(item) for item in classes}
    for item in classes:
        locations |= {feature.fqn: feature_location(feature) for feature in declared_features(item)}
    available = withdraw_dependents(bound, locations, failures)
    return Catalogue(classes=available, unavailable=failures.records)


def _bind_class(
    item: Any, outline: ClassPlan, resolved: Mapping[str, ResolvedFeature], failures: Failures
) -> ClassPlan:
    declared = declared_features(item)
    outlines = {plan.fqn: plan for plan in outline.features}
    features: list[FeaturePlan] = []
    joins: list[JoinPlan] = []
    for feature in declared:
        if feature.fqn in failures:
            continue
        with failures.record(feature.fqn):
            if feature.is_has_many or feature.is_has_one:
                joins.append(_bind_join(feature))
            elif feature.fqn in outlines:
                bound = _bind_feature(feature, outlines[feature.fqn], resolved.get(feature.fqn))
                features.append(bound)
    return outline.model_copy(update={"features": tuple(features), "joins": tuple(joins)})


def _bind_feature(
    feature: Any, outline: FeaturePlan, resolved: ResolvedFeature | None
) -> FeaturePlan:
    _refuse_ignored(feature)
    expression = _bind_expression(feature, outline.dtype)
    is_read = resolved is None and expression is None
    return outline.model_copy(
        update={
            "expression": expression if resolved is None else resolved.expression,
            "online": resolved.online if resolved is not None else None,
            "max_staleness_us": _bind_staleness(feature, is_read=is_read),
            "default": _bind_default(feature, outline.dtype),
            "validations": _bind_validations(feature),
        }
    )


def _refuse_ignored(feature: Any) -> None:
    """Refuse what chalkpy accepts without an error, and what would be ignored here."""
    if feature.offline_underscore_expression is not None:
        raise refuse(
            feature,
            "offline_expression would give training another value than serving",
            "Write one `expression`.",
        )
    if feature.offline_ttl != CHALK_MAX_TIMEDELTA:
        raise refuse(
            feature,
            f"offline_ttl={feature.offline_ttl} would give training another value than serving",
            "Write `max_staleness`, which holds in both.",
        )


def _bind_expression(feature: Any, dtype: DType) -> Expr | None:
    raw = feature.underscore_expression
    if raw is None:
        return None
    expression = ExpressionBinder(feature).bind(raw)
    # Without a cast around it, a JSON value has the type of the feature.
    expression = json_as(expression, dtype) or expression
    _check_window_use(feature, raw, expression)
    if _is_assignable(expression, dtype):
        return expression
    raise refuse(
        feature,
        f"the expression gives {expression.dtype}, the feature is {dtype}",
        _cast_hint(dtype),
        raw,
    )


def _cast_hint(dtype: DType) -> str:
    if not is_scalar(dtype):
        return "Change the annotation, or the expression."
    return f"Cast it: F.cast(…, pa.{_ARROW_CALLS.get(str(dtype), f'{dtype}()')})."


def _check_window_use(feature: Any, raw: Any, expression: Expr) -> None:
    if has_window_start(expression):
        raise refuse(
            feature,
            "`_.chalk_window` stands outside a has-many's filter",
            "Write `_.many[_.x, _.t > _.chalk_window].sum()`.",
            raw,
        )
    # All windows of the feature would have the same values.
    if feature.window_duration is not None and "chalk_window" not in repr(raw):
        raise refuse(
            feature,
            "the expression of a windowed feature does not use its window",
            "Filter the rows by `_.t > _.chalk_window`.",
            raw,
        )


def _is_assignable(expression: Expr, dtype: DType) -> bool:
    if expression.dtype in (dtype, "null") or (expression.dtype, dtype) == ("int64", "float64"):
        return True
    is_whole = getattr(expression, "function", None) in _WHOLE
    return is_whole and (expression.dtype, dtype) == ("float64", "int64")


def _bind_staleness(feature: Any, *, is_read: bool) -> int | None:
    """Microseconds, or None if a value of any age is used.

    Args:
        feature: The chalkpy feature; its own ``max_staleness``, else its class's.
        is_read: Whether its values are read from a source rather than computed.

    Raises:
        DefinitionError: Its values are read, and the class has no event time to tell their age.
    """
    limit = feature.max_staleness
    # chalkpy's default is a limit of 0, which also can be stated.
    is_stated = feature.raw_max_staleness is not ... or limit != timedelta(0)
    if not is_stated or limit >= CHALK_MAX_TIMEDELTA or feature.primary or feature.is_feature_time:
        return None
    if limit < timedelta(0):
        raise refuse(feature, f"max_staleness={limit} is negative", "Write '1h', or 'infinity'.")
    if is_read and event_time_of(feature.features_cls) is None:
        raise refuse(
            feature,
            f"max_staleness={feature.raw_max_staleness!r} needs to know when a value was observed",
            f"Give {feature.features_cls.__name__} a `FeatureTime`, or leave it out.",
        )
    return int(limit // timedelta(microseconds=1))


def _bind_default(feature: Any, dtype: DType) -> Const | None:
    # A default of None is the same as none: the feature stays null.
    converter = feature.converter
    if not converter.has_default or converter.primitive_default is None:
        return None
    # Of an enumeration's member, the rich default is the member, whose value is a literal.
    default = constant(converter.rich_default) or constant(converter.primitive_default)
    if default is None:
        raise refuse(feature, f"default {converter.primitive_default!r} has no plain form", "")
    if default.dtype == "int64" and dtype == "float64" and isinstance(default.value, int):
        return Const(value=float(default.value), dtype="float64")
    if unify([default.dtype, dtype]) == dtype:
        return default.model_copy(update={"dtype": dtype})
    raise refuse(
        feature,
        f"default {converter.primitive_default!r} is {default.dtype}, the feature is {dtype}",
        "Give a default of the feature's type.",
    )


def _bind_validations(feature: Any) -> tuple[Validation, ...]:
    return tuple(
        Validation(
            min=check.min,
            max=check.max,
            min_length=check.min_length,
            max_length=check.max_length,
            contains=check.contains,
            strict=bool(check.strict),
        )
        for check in feature.all_validations or ()
    )


def _bind_join(feature: Any) -> JoinPlan:
    pairs = [_order_keys(feature, *pair) for pair in _equalities(feature, feature.join)]
    own_keys, target_keys = zip(*pairs, strict=True)
    return JoinPlan(
        name=feature.name,
        many=bool(feature.is_has_many),
        target=feature.joined_class.namespace,
        own_keys=own_keys,
        target_keys=target_keys,
    )


def _equalities(feature: Any, condition: Any) -> list[tuple[Any, Any]]:
    if not isinstance(condition, Filter):
        raise refuse(feature, f"join {condition!r} is not supported", "Join by equal keys.")
    if condition.operation == "and":
        return [
            *_equalities(feature, condition.lhs),
            *_equalities(feature, condition.rhs),
        ]
    if condition.operation != "==":
        raise refuse(
            feature,
            f"a join by {condition.operation!r} is not supported",
            "Join by equal keys, and filter in the expression: _.many[_.x > 0].",
        )
    return [(condition.lhs, condition.rhs)]


def _order_keys(feature: Any, left: Any, right: Any) -> tuple[str, str]:
    """The names of the class's own key and of the other's, whichever is written first."""
    if left.namespace == feature.namespace and right.namespace != feature.namespace:
        return left.name, right.name
    if right.namespace == feature.namespace and left.namespace != feature.namespace:
        return right.name, left.name
    # A class joined with itself: the left one is its own by convention.
    if feature.joined_class.namespace == feature.namespace:
        return left.name, right.name
    raise refuse(feature, "the join does not compare this class with the other", "")
