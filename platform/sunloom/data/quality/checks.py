"""Checks of single rows, as Polars expressions over a batch, and plugins that check rows.

Plugins are entry points of the group ``sunloom.checks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol, runtime_checkable

import polars as pl

from sunloom.config.data import CheckRule, ColumnRule, ReferenceRule, ValidationConfig
from sunloom.core.plugins import load_plugin
from sunloom.data.exact_casts import cast_exactly
from sunloom.data.quality.checked_table import (
    CheckedTable,
    TypedBatch,
    presence_column,
    table_from_path,
)
from sunloom.data.sources.table_files import require_columns
from sunloom.errors import ConfigError, PluginError

GROUP = "sunloom.checks"

Mask = pl.Expr | Callable[[TypedBatch], pl.Series]
"""Of the typed columns, or of a batch: True where a row fails, False where it passes, null where it
is not checked."""


@dataclass(frozen=True)
class RowCheck:
    """A check of rows one by one.

    Attributes:
        check: Kind of check.
        feature: Column or columns.
        threshold: Share of the checked rows that must pass.
        reason: What is wrong with a row that fails.
        mask: Which rows fail.
        example_columns: Columns whose values are shown in examples.
    """

    check: str
    feature: str
    threshold: float
    reason: str
    mask: Mask
    example_columns: tuple[str, ...] = ()


@runtime_checkable
class CustomCheck(Protocol):
    """A plugin of group ``sunloom.checks``: says which rows pass.

    It is called with some consecutive rows at a time and must judge each by itself.
    """

    def __call__(self, rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.Series:
        """True where a row passes, False where it fails, null where it is not checked.

        Args:
            rows: Columns in their declared types.
            options: ``options`` of the recipe.
        """
        ...


def row_checks(
    config: ValidationConfig, table: CheckedTable, keys: Sequence[str]
) -> list[RowCheck]:
    """Every check of single rows that the rules ask for, column by column.

    Raises:
        ConfigError: A rule does not fit the column's type.
    """
    checks = [
        check
        for name in table.schema
        for check in _column_checks(name, config, table.dtype(name), name in keys)
    ]
    checks += [_reference_check(rule, table) for rule in config.references]
    return checks + [_custom_check(rule) for rule in config.checks]


def is_missing(name: str, dtype: pl.DataType) -> pl.Expr:
    """Whether a value is missing: null in the source, or NaN."""
    # Not ``is_null`` of the typed column: a value of a wrong type is null there, but not missing.
    absent = ~pl.col(presence_column(name))
    return (absent | pl.col(name).is_nan().fill_null(False)) if dtype.is_float() else absent


def _column_checks(
    name: str, config: ValidationConfig, dtype: pl.DataType, is_key: bool
) -> Iterator[RowCheck]:
    rule = config.columns.get(name, ColumnRule())
    # Keys that the recipe names must be complete; guessed ones (``id``) are columns like others.
    least = 1.0 if is_key and config.keys else config.quality_checks.completeness_threshold
    completeness = least if rule.completeness is None else rule.completeness
    yield RowCheck(
        check="completeness",
        feature=name,
        threshold=completeness,
        reason=f"{name} is missing",
        mask=is_missing(name, dtype),
        example_columns=(name,),
    )
    of_all = config.quality_checks.validity_threshold
    validity = of_all if rule.validity is None else rule.validity
    for kind, reason, fails in _validity_masks(name, rule, dtype):
        yield RowCheck(kind, name, validity, reason, mask=fails, example_columns=(name,))


def _validity_masks(
    name: str, rule: ColumnRule, dtype: pl.DataType
) -> Iterator[tuple[str, str, pl.Expr]]:
    """Kind, reason and mask of each rule about the column's values."""
    column = pl.col(name)
    value: pl.Expr = column
    if dtype.is_float():
        # NaN is missing, not out of range: a null mask leaves the row unchecked.
        value = pl.when(column.is_not_nan()).then(column)
    if rule.type is not None:
        # A missing value has no wrong type; completeness counts it.
        misfit = pl.when(pl.col(presence_column(name))).then(column.is_null())
        yield "type", f"{name} is not {rule.type}", misfit
    if rule.min is not None or rule.max is not None:
        bounds = f"{_bound_text(rule.min, '-∞')} to {_bound_text(rule.max, '∞')}"
        yield "range", f"{name} is outside {bounds}", _is_outside(name, value, rule, dtype)
    if rule.allowed:
        allowed = _allowed_values(name, rule, dtype).implode()
        yield "allowed_values", f"{name} is not allowed", ~value.is_in(allowed)
    if rule.pattern is not None:
        # The group keeps the anchors around both sides of an alternative such as a|b.
        matches = value.cast(pl.String).str.contains(f"^(?:{_require_regex(name, rule.pattern)})$")
        yield "pattern", f"{name} does not match", ~matches
    if rule.min_length is not None or rule.max_length is not None:
        length = value.cast(pl.String).str.len_chars()
        least, most = rule.min_length or 0, rule.max_length
        wrong = (length < least) | (length > most) if most is not None else length < least
        yield "length", f"{name} is too short or too long", wrong


def _is_outside(name: str, value: pl.Expr, rule: ColumnRule, dtype: pl.DataType) -> pl.Expr:
    wrong = [
        value < _bound_literal(name, rule.min, dtype) if rule.min is not None else None,
        value > _bound_literal(name, rule.max, dtype) if rule.max is not None else None,
        # An infinite value is outside every range, also one with a single bound.
        value.is_infinite() if dtype.is_float() else None,
    ]
    return pl.any_horizontal(expression for expression in wrong if expression is not None)


def _bound_literal(name: str, bound: float | datetime | date, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime) and isinstance(bound, date):
        if not isinstance(bound, datetime):
            bound = datetime(bound.year, bound.month, bound.day, tzinfo=UTC)
        return pl.lit(bound).cast(dtype)
    if isinstance(dtype, pl.Date) and isinstance(bound, date):
        return pl.lit(bound.date() if isinstance(bound, datetime) else bound)
    if isinstance(dtype, pl.Duration) and isinstance(bound, float):
        return pl.duration(microseconds=round(bound * 1_000_000))
    if dtype.is_numeric() and isinstance(bound, float):
        return pl.lit(bound)
    if dtype == pl.Null:
        return pl.lit(None)
    raise ConfigError(
        f"validation.columns.{name}: the bound {bound} does not fit a column of {dtype}.",
        "Bounds are numbers for numbers, dates for datetimes, seconds for durations.",
        f"validation.columns.{name}",
    )


def _allowed_values(name: str, rule: ColumnRule, dtype: pl.DataType) -> pl.Series:
    target = pl.String() if isinstance(dtype, pl.Categorical | pl.Enum) else dtype
    kinds: list[tuple[bool, tuple[type, ...]]] = [
        (target == pl.String, (str,)),
        (target == pl.Boolean, (bool,)),
        (target.is_numeric(), (int, float)),
        (target == pl.Null, (object,)),
    ]
    fitting = next((types for fits, types in kinds if fits), ())
    for value in rule.allowed:
        # Python's bool is an int: true must not stand for 1 in a column of numbers.
        if not isinstance(value, fitting) or (isinstance(value, bool) and bool not in fitting):
            raise ConfigError(
                f"validation.columns.{name}.allowed: {value!r} does not fit a column of {dtype}.",
                param=f"validation.columns.{name}.allowed",
            )
    if target.is_integer():
        # A fraction equals no integer: it is left out, where a cast would round it to one.
        whole = [value for value in rule.allowed if float(value) == int(value)]
        return pl.Series(whole, dtype=pl.Int64, strict=False).cast(target, strict=False)
    return pl.Series(rule.allowed, dtype=target, strict=False)


def _require_regex(name: str, pattern: str) -> str:
    # Compiled here, so that a wrong pattern is found before the table is read.
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        raise ConfigError(
            f"validation.columns.{name}.pattern is no regular expression: {error}",
            param=f"validation.columns.{name}.pattern",
        ) from error
    return pattern


def _reference_check(rule: ReferenceRule, table: CheckedTable) -> RowCheck:
    target = list(rule.target or rule.columns)
    reference = table_from_path(rule.table)
    require_columns(pl.Schema(reference.schema), target, str(rule.table))
    # The referred columns are read as the referring ones are declared, so that values compare.
    types = {
        to: table.types[name]
        for to, name in zip(target, rule.columns, strict=True)
        if name in table.types
    }
    typed = reference.with_types(types)
    # Unique, or the join below would repeat a row for each occurrence of its value.
    known = pl.DataFrame({to: typed.column(to) for to in target}).unique()
    _require_same_types(rule, table, known)
    known = known.rename(dict(zip(target, rule.columns, strict=True)), strict=True)

    def mask(batch: TypedBatch) -> pl.Series:
        own = batch.typed.select(rule.columns)
        # What the reference's type cannot hold, such as 3.5 among whole numbers, is not in it.
        exact = [
            cast_exactly(pl.col(name), dtype, known.schema[name]).alias(name)
            for name, dtype in own.schema.items()
        ]
        joined = own.select(exact).join(
            known.with_columns(found=pl.lit(True)), on=rule.columns, how="left",
            maintain_order="left",
        )  # fmt: skip
        is_complete = own.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
        return pl.select(pl.when(is_complete).then(joined["found"].is_null())).to_series()

    feature = ", ".join(rule.columns)
    return RowCheck(
        check="reference",
        feature=feature,
        threshold=rule.threshold,
        reason=f"{feature} is not in {rule.table.name}",
        mask=mask,
        example_columns=rule.columns,
    )


def _require_same_types(rule: ReferenceRule, table: CheckedTable, known: pl.DataFrame) -> None:
    for name, dtype in zip(rule.columns, known.schema.values(), strict=True):
        own = table.dtype(name)
        if own != dtype and not (own.is_numeric() and dtype.is_numeric()):
            raise ConfigError(
                f"validation.references: {name} is {own}, but {rule.table} has {dtype}.",
                "Give the column's type, or compare columns of one type.",
                "validation.references",
            )


def _custom_check(rule: CheckRule) -> RowCheck:
    name = rule.check

    def mask(batch: TypedBatch) -> pl.Series:
        check: CustomCheck = load_plugin(GROUP, name, CustomCheck)
        # The plugin sees the user's columns alone, not the ``presence_column`` beside each.
        rows = batch.typed.select(c for c in batch.typed.columns if not c.startswith("\0"))
        try:
            passing = check(rows, rule.options)
        # The plugin is the user's code: whatever it raises, the error must name the check.
        except Exception as error:
            raise PluginError(f"Check {name!r} failed: {type(error).__name__}: {error}") from error
        is_mask = isinstance(passing, pl.Series) and passing.dtype == pl.Boolean
        if not is_mask or len(passing) != len(rows):
            raise PluginError(
                f"Check {name!r} must return a Boolean series of {len(rows)} values.",
                "True where a row passes.",
            )
        # Null stays null: a row that the plugin does not check does not fail either.
        return ~passing

    return RowCheck(name, "*", rule.threshold, f"check {name} refuses it", mask)


def _bound_text(bound: Any, absent: str) -> str:
    if bound is None:
        return absent
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
