"""Checks of single rows, as expressions over a chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from sunloom.config.data.validation import CheckRule, ColumnRule, ReferenceRule, ValidationConfig
from sunloom.data.quality.batches import CheckedTable, TypedBatch, present, rows_of_path
from sunloom.data.quality.custom_checks import failing_rows
from sunloom.data.sources.files import require_columns
from sunloom.errors import ConfigError

Mask = Callable[[TypedBatch], pl.Expr | pl.Series]


@dataclass(frozen=True)
class RowCheck:
    """A check that judges rows one by one.

    Attributes:
        check: Kind of check.
        feature: Column or columns.
        threshold: Share of the judged rows that must pass.
        reason: What is wrong with a row that fails.
        mask: True where a row fails, False where it passes, null where it is not judged.
        shown: Columns whose values are shown in examples.
    """

    check: str
    feature: str
    threshold: float
    reason: str
    mask: Mask
    shown: tuple[str, ...] = ()


def row_checks(config: ValidationConfig, rows: CheckedTable, keys: Sequence[str]) -> list[RowCheck]:
    """Every check of single rows that the rules ask for, column by column.

    Raises:
        ConfigError: A rule does not fit the column's type.
    """
    found = list(rows.schema)
    checks = [
        check
        for name in found
        for check in _of_column(name, config, rows.dtype(name), name in keys)
    ]
    checks += [_reference(rule, rows) for rule in config.references]
    return checks + [_own(rule) for rule in config.checks]


def is_missing(name: str, dtype: pl.DataType) -> pl.Expr:
    """Whether a value is missing: null as it was found, or NaN."""
    absent = ~pl.col(present(name))
    return (absent | pl.col(name).is_nan().fill_null(False)) if dtype.is_float() else absent


def _of_column(
    name: str, config: ValidationConfig, dtype: pl.DataType, is_key: bool
) -> Iterator[RowCheck]:
    rule = config.columns.get(name, ColumnRule())
    standard = 1.0 if is_key and config.keys else config.completeness_threshold
    least = rule.completeness if rule.completeness is not None else standard
    missing = is_missing(name, dtype)
    yield RowCheck("completeness", name, least, f"{name} is missing", _always(missing), (name,))
    share = rule.validity if rule.validity is not None else config.validity_threshold
    for check, reason, fails in _validity(name, rule, dtype):
        yield RowCheck(check, name, share, reason, _always(fails), (name,))


def _validity(
    name: str, rule: ColumnRule, dtype: pl.DataType
) -> Iterator[tuple[str, str, pl.Expr]]:
    column = pl.col(name)
    value: pl.Expr = column
    if dtype.is_float():
        value = pl.when(column.is_not_nan()).then(column)
    if rule.type is not None:
        misfit = pl.when(pl.col(present(name))).then(column.is_null())
        yield "type", f"{name} is not {rule.type}", misfit
    if rule.min is not None or rule.max is not None:
        bounds = f"{_shown(rule.min, '-∞')} to {_shown(rule.max, '∞')}"
        yield "range", f"{name} is outside {bounds}", _outside(name, value, rule, dtype)
    if rule.allowed:
        yield (
            "allowed_values",
            f"{name} is not allowed",
            ~value.is_in(_allowed(name, rule, dtype).implode()),
        )
    if rule.pattern is not None:
        matches = value.cast(pl.String).str.contains(f"^(?:{_pattern(name, rule.pattern)})$")
        yield "pattern", f"{name} does not match", ~matches
    if rule.min_length is not None or rule.max_length is not None:
        length = value.cast(pl.String).str.len_chars()
        least, most = rule.min_length or 0, rule.max_length
        wrong = (length < least) | (length > most) if most is not None else length < least
        yield "length", f"{name} is too short or too long", wrong


def _outside(name: str, value: pl.Expr, rule: ColumnRule, dtype: pl.DataType) -> pl.Expr:
    wrong = [
        value < _bound(name, rule.min, dtype) if rule.min is not None else None,
        value > _bound(name, rule.max, dtype) if rule.max is not None else None,
        # An infinite value lies in no range.
        value.is_infinite() if dtype.is_float() else None,
    ]
    return pl.any_horizontal(expression for expression in wrong if expression is not None)


def _bound(name: str, bound: float | datetime | date, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime) and isinstance(bound, date):
        moment = bound
        if not isinstance(moment, datetime):
            moment = datetime(bound.year, bound.month, bound.day, tzinfo=UTC)
        return pl.lit(moment).cast(dtype)
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
        "Numbers have numbers, moments have dates, durations have seconds.",
        f"validation.columns.{name}",
    )


def _allowed(name: str, rule: ColumnRule, dtype: pl.DataType) -> pl.Series:
    target = pl.String() if isinstance(dtype, pl.Categorical | pl.Enum) else dtype
    kinds: list[tuple[bool, tuple[type, ...]]] = [
        (target == pl.String, (str,)),
        (target == pl.Boolean, (bool,)),
        (target.is_numeric(), (int, float)),
        (target == pl.Null, (object,)),
    ]
    fitting = next((types for fits, types in kinds if fits), ())
    for value in rule.allowed:
        if not isinstance(value, fitting) or (isinstance(value, bool) and bool not in fitting):
            raise ConfigError(
                f"validation.columns.{name}.allowed: {value!r} does not fit a column of {dtype}.",
                param=f"validation.columns.{name}.allowed",
            )
    if target.is_integer():
        whole = [value for value in rule.allowed if float(value) == int(value)]
        return pl.Series(whole, dtype=pl.Int64, strict=False).cast(target, strict=False)
    return pl.Series(rule.allowed, dtype=target, strict=False)


def _pattern(name: str, pattern: str) -> str:
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        raise ConfigError(
            f"validation.columns.{name}.pattern is no regular expression: {error}",
            param=f"validation.columns.{name}.pattern",
        ) from error
    return pattern


def _reference(rule: ReferenceRule, rows: CheckedTable) -> RowCheck:
    target = list(rule.target or rule.columns)
    table = rows_of_path(rule.table)
    require_columns(pl.Schema(table.schema), target, str(rule.table))
    types = {a: rows.types[b] for a, b in zip(target, rule.columns, strict=True) if b in rows.types}
    typed = table.declared(types)
    known = pl.DataFrame({to: typed.column(to) for to in target}).unique()
    _require_same(rule, rows, known)
    known = known.rename(dict(zip(target, rule.columns, strict=True)), strict=True)

    def mask(chunk: TypedBatch) -> pl.Series:
        own = chunk.typed.select(rule.columns)
        asked = own.cast(known.schema)
        joined = asked.join(
            known.with_columns(found=pl.lit(True)), on=rule.columns, how="left",
            maintain_order="left",
        )  # fmt: skip
        judged = own.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
        lacking = joined["found"].is_null()
        return pl.select(pl.when(judged).then(lacking)).to_series()

    feature = ", ".join(rule.columns)
    reason = f"{feature} is not in {rule.table.name}"
    return RowCheck("reference", feature, rule.threshold, reason, mask, rule.columns)


def _require_same(rule: ReferenceRule, rows: CheckedTable, known: pl.DataFrame) -> None:
    for own, dtype in zip(rule.columns, known.schema.values(), strict=True):
        mine = rows.dtype(own)
        if mine != dtype and not (mine.is_numeric() and dtype.is_numeric()):
            raise ConfigError(
                f"validation.references: {own} is {mine}, but {rule.table} has {dtype}.",
                "Give the column's type, or compare columns of one type.",
                "validation.references",
            )


def _own(rule: CheckRule) -> RowCheck:
    def mask(chunk: TypedBatch) -> pl.Series:
        names = [name for name in chunk.typed.columns if not name.startswith("\0")]
        return failing_rows(rule.check, chunk.typed.select(names), rule.options)

    return RowCheck(rule.check, "*", rule.threshold, f"check {rule.check} refuses it", mask)


def _always(expression: pl.Expr) -> Mask:
    return lambda _chunk: expression


def _shown(bound: Any, absent: str) -> str:
    if bound is None:
        return absent
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
