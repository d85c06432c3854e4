"""The rules that hold for one table: the recipe's, filled up from the feature definitions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from sunloom.config.data.validation import ColumnRule, ValidationConfig, ValueType
from sunloom.data.quality.batches import CheckedTable
from sunloom.errors import ConfigError, DataError, known_names_hint
from sunloom.features.plan.feature_sets import FeaturePlan, Plan

_USUAL_KEYS = ("entity_id", "id")
_TIME = "event_time"


def with_plan(config: ValidationConfig, plan: Plan, found: Collection[str]) -> ValidationConfig:
    """The rules, and what the definitions of a feature set say where the rules are silent.

    Types, limits (``min``, ``max``, lengths) and, without ``keys``, the primary key. Columns that
    only the definitions name need not be there.

    Args:
        config: The rules.
        plan: The feature set's plan.
        found: Columns of the table.
    """
    root = plan.root
    keys = config.keys or _with_time((root.key,) if root.key in found else (), found)
    columns = {feature.name: _of_feature(feature) for feature in root.features}
    merged = {name: _merged(columns.get(name), rule) for name, rule in config.columns.items()}
    return config.model_copy(
        update={"columns": {**columns, **config.columns, **merged}, "keys": keys}
    )


def declared_types(config: ValidationConfig) -> dict[str, str]:
    """Column to declared type."""
    return {name: rule.type for name, rule in config.columns.items() if rule.type is not None}


def keys_of(config: ValidationConfig, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns that identify a row; () means the whole row."""
    usual = next(((name,) for name in _USUAL_KEYS if name in found), ())
    return config.keys or _with_time(usual, found)


def _with_time(keys: tuple[str, ...], found: Collection[str]) -> tuple[str, ...]:
    return (*keys, _TIME) if keys and _TIME in found and _TIME not in keys else keys


def require_known(config: ValidationConfig, rows: CheckedTable) -> None:
    """Check that what the rules name outside ``columns`` is there.

    Raises:
        DataError: A key, a referring column or a compared one is missing; names it.
        ConfigError: A rule for one column does not fit its type.
    """
    named: list[tuple[str, str]] = [("keys", name) for name in config.keys]
    named += [("references", name) for rule in config.references for name in rule.columns]
    named += [("drift_columns", name) for name in config.drift_columns]
    named += [("drift_per_column", name) for name in config.drift_per_column]
    for where, name in named:
        if name not in rows.schema:
            raise DataError(
                f"validation.{where} names {name!r}, and {rows.name} has no such column.",
                known_names_hint(name, rows.schema),
                name,
            )
    if config.freshness is not None and config.freshness.column not in rows.schema:
        name = config.freshness.column
        raise DataError(
            f"validation.freshness needs the column {name!r}, and {rows.name} has none.",
            known_names_hint(name, rows.schema),
            name,
        )
    for name, rule in config.columns.items():
        if name in rows.schema:
            _require_fit(name, rule, rows)


def _require_fit(name: str, rule: ColumnRule, rows: CheckedTable) -> None:
    dtype = rows.dtype(name)
    is_text = dtype.is_(_string()) or str(dtype) in ("Categorical", "Enum")
    if is_text and (rule.min is not None or rule.max is not None):
        problem, hint = "min and max", "Use min_length and max_length, or give its type."
    elif not is_text and dtype != _null() and _text_rules(rule):
        problem, hint = "pattern, min_length and max_length", "They are for text."
    else:
        return
    raise ConfigError(
        f"validation.columns.{name}: {problem} do not fit a column of {dtype}.",
        hint,
        f"validation.columns.{name}",
    )


def _text_rules(rule: ColumnRule) -> bool:
    return any(one is not None for one in (rule.pattern, rule.min_length, rule.max_length))


def _of_feature(feature: FeaturePlan) -> ColumnRule:
    limits: dict[str, Any] = {}
    for check in feature.validations:
        for name in ("min", "max", "min_length", "max_length"):
            if (value := getattr(check, name)) is not None:
                limits[name] = value
    kind = str(feature.dtype)
    return ColumnRule(type=kind if kind in _types() else None, required=False, **limits)


def _merged(base: ColumnRule | None, rule: ColumnRule) -> ColumnRule:
    if base is None:
        return rule
    given = {name: getattr(rule, name) for name in rule.model_fields_set}
    return base.model_copy(update={"required": rule.required} | given)


def _types() -> Sequence[str]:
    return get_args(ValueType)


def _string() -> Any:
    import polars as pl

    return pl.String


def _null() -> Any:
    import polars as pl

    return pl.Null
