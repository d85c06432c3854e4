"""Validation rules of one table: the recipe's, completed by what its owner knows of the columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from sunloom.config.data import ColumnRule, ValidationConfig
from sunloom.data.quality.checked_table import CheckedTable
from sunloom.errors import ConfigError, MissingColumnError, known_names_hint

_USUAL_KEYS = ("entity_id", "id")
_TIME = "event_time"


@dataclass(frozen=True)
class TableRules:
    """What the owner of a table, such as a feature set, declares of its columns.

    Attributes:
        key: Column that identifies a row, together with ``event_time`` where there is one.
        columns: Column to its type and limits.
    """

    key: str
    columns: Mapping[str, ColumnRule]


def complete_rules(
    config: ValidationConfig, table: TableRules, names: Collection[str]
) -> ValidationConfig:
    """The recipe's rules, completed by the table's own where the recipe says nothing.

    Types, limits (``min``, ``max``, lengths) and, without ``keys``, the key. Columns that only
    ``table`` names may be absent.

    Args:
        config: The recipe's rules.
        table: The table's own rules.
        names: Columns of the table that is checked.
    """
    keys = config.keys or _with_time((table.key,) if table.key in names else (), names)
    columns = {**table.columns}
    for name, rule in config.columns.items():
        # Only what the recipe sets: a model's default must not replace a declared limit. A column
        # that the recipe names is required, also where the table's owner did not require it.
        own = {key: getattr(rule, key) for key in rule.model_fields_set | {"required"}}
        columns[name] = columns[name].model_copy(update=own) if name in columns else rule
    return config.model_copy(update={"columns": columns, "keys": keys})


def declared_types(config: ValidationConfig) -> dict[str, str]:
    """Column to declared type."""
    return {name: rule.type for name, rule in config.columns.items() if rule.type is not None}


def key_columns(config: ValidationConfig, names: Collection[str]) -> tuple[str, ...]:
    """Columns that identify a row; () means the whole row.

    Args:
        config: The rules.
        names: Columns of the table.
    """
    usual = next(((name,) for name in _USUAL_KEYS if name in names), ())
    return config.keys or _with_time(usual, names)


def _with_time(keys: tuple[str, ...], names: Collection[str]) -> tuple[str, ...]:
    # A history has a row for each key and time, where the key alone repeats.
    return (*keys, _TIME) if keys and _TIME in names and _TIME not in keys else keys


def check_rules_fit(
    config: ValidationConfig, table: CheckedTable, reference_columns: Collection[str] = ()
) -> None:
    """Check that the table has the columns that the rules name, of types that they fit.

    A column that ``columns`` alone names may be absent: whether it may is a check of its own. A
    compared column may be absent where the reference has it: the comparison says so.

    Raises:
        MissingColumnError: A key, a referring column or a compared one is missing; names it.
        ConfigError: A rule for one column does not fit its type.
    """
    named: list[tuple[str, str]] = [("keys", name) for name in config.keys]
    named += [("references", name) for rule in config.references for name in rule.columns]
    drift = config.drift_detection
    compared = [("drift_detection.columns", name) for name in drift.columns]
    compared += [("drift_detection.per_column", name) for name in drift.per_column]
    named += [(where, name) for where, name in compared if name not in reference_columns]
    for where, name in named:
        if name not in table.schema:
            raise MissingColumnError(
                f"validation.{where} names {name!r}, and {table.name} has no such column.",
                known_names_hint(name, table.schema),
                name,
            )
    if config.freshness is not None and config.freshness.column not in table.schema:
        name = config.freshness.column
        raise MissingColumnError(
            f"validation.freshness needs the column {name!r}, and {table.name} has none.",
            known_names_hint(name, table.schema),
            name,
        )
    for name, rule in config.columns.items():
        if name in table.schema:
            _check_type_fits(name, rule, table.dtype(name))


def _check_type_fits(name: str, rule: ColumnRule, dtype: pl.DataType) -> None:
    is_text = isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
    text_rules = (rule.pattern, rule.min_length, rule.max_length)
    if is_text and (rule.min is not None or rule.max is not None):
        problem, hint = "min and max", "Use min_length and max_length, or give its type."
    elif not is_text and dtype != pl.Null and any(bound is not None for bound in text_rules):
        problem, hint = "pattern, min_length and max_length", "They are for text."
    else:
        return
    raise ConfigError(
        f"validation.columns.{name}: {problem} do not fit a column of {dtype}.",
        hint,
        f"validation.columns.{name}",
    )
