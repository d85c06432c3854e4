"""The validation of a table: one pass that counts, and one for the rows that fail.

Some of the failing rows are examples in the report; all of them go to the quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.data import FreshnessRule, ValidationConfig
from sunloom.core.database import utc_now
from sunloom.data.quality.checked_table import CheckedTable, TypedBatch
from sunloom.data.quality.checks import RowCheck, row_checks
from sunloom.data.quality.drift import ColumnDrift, compare_with_reference
from sunloom.data.quality.profiles import Profiler
from sunloom.data.quality.report import CheckResult, DamagedExample, QualityReport, RowExample
from sunloom.data.quality.rules import check_rules_fit, declared_types, key_columns
from sunloom.data.quarantine import POSITION, REASON, QuarantineWriter
from sunloom.errors import DataError

Key = tuple[str, ...]

_MOST_CHARACTERS = 200
_MOST_ITEMS = 20


@dataclass(frozen=True)
class _Outcome:
    """A check of single rows, its result over the whole table, and some rows that fail."""

    check: RowCheck
    result: CheckResult
    examples: list[RowExample] = field(default_factory=list)


@dataclass
class _Tally:
    """Counts of the first pass.

    Attributes:
        failed, checked: Rows of each check that fail, and that were checked.
        hashes: Key columns to a number a row, batch by batch.
        rows: Rows read.
        newest: Latest time of a row, for the freshness.
    """

    failed: list[int]
    checked: list[int]
    hashes: dict[Key, list[pl.Series]]
    rows: int = 0
    newest: datetime | None = None


def validate(
    table: CheckedTable,
    config: ValidationConfig,
    reference: CheckedTable | None = None,
    quarantine: Path | None = None,
) -> QualityReport:
    """Check a table by the rules.

    Args:
        table: The rows.
        config: The rules.
        reference: Rows taken as normal; without them drift is not checked.
        quarantine: File of the rows that make a check fail, as JSON lines with ``position``,
            ``reason`` and ``content``.

    Raises:
        DataError: A column that the rules name outside ``columns`` is missing.
        ConfigError: A rule does not fit the column's type.
        NotFoundError: A custom check is not installed.
    """
    table = table.with_types(declared_types(config))
    check_rules_fit(config, table, reference.schema if reference else ())
    keys = key_columns(config, table.schema)
    checks = row_checks(config, table, keys)
    unique = [(n,) for n, rule in config.columns.items() if rule.unique and n in table.schema]
    # Without a key at least no two whole rows may be equal.
    hashes: dict[Key, list[pl.Series]] = {key: [] for key in [keys or tuple(table.schema), *unique]}
    tally = _Tally([0] * len(checks), [0] * len(checks), hashes)
    profiler = Profiler(table)
    for batch in table.batches():
        _count(tally, batch, checks, config.freshness)
        profiler.add(batch)
    outcomes = [
        _Outcome(check, _row_check_result(check, failed, checked))
        for check, failed, checked in zip(checks, tally.failed, tally.checked, strict=True)
    ]
    outcomes += [_check_uniqueness(config, table, key, tally.hashes[key]) for key in tally.hashes]
    with QuarantineWriter(quarantine) as writer:
        row_results = _collect_failing_rows(table, outcomes, keys, config.examples, writer)
    drift = compare_with_reference(table, reference, config, keys) if reference else ColumnDrift()
    return QualityReport(
        name=table.name,
        rows=tally.rows,
        checks=(*_table_checks(config, table, tally), *row_results),
        drift=drift.columns,
        drift_skipped=drift.skipped,
        profiles=profiler.profiles(),
        created_at=utc_now(),
        shapes=drift.shapes,
        quarantine=writer.path,
    )


def _count(
    tally: _Tally, batch: TypedBatch, checks: Sequence[RowCheck], freshness: FreshnessRule | None
) -> None:
    for number, mask in enumerate(_masks(checks, batch).iter_columns()):
        tally.failed[number] += int(mask.sum() or 0)
        tally.checked[number] += mask.count()
    for key, hashes in tally.hashes.items():
        hashes.append(_key_hashes(batch, key).drop_nulls())
    tally.rows += batch.raw.height
    if freshness is not None:
        tally.newest = _newest(batch, freshness.column, tally.newest)


def _masks(checks: Sequence[RowCheck], batch: TypedBatch) -> pl.DataFrame:
    """A column a check: True where a row fails, null where it is not checked."""
    masks = (c.mask if isinstance(c.mask, pl.Expr) else pl.lit(c.mask(batch)) for c in checks)
    # One select for all checks: Polars evaluates their expressions in parallel.
    return batch.typed.select(mask.alias(str(number)) for number, mask in enumerate(masks))


def _key_hashes(batch: TypedBatch, key: Key) -> pl.Series:
    """A number for each key; null where a part of it is missing.

    Eight bytes a row instead of the keys themselves: uniqueness is over the whole table, which
    need not fit in memory, and equal hashes of different keys are rare enough to be ignored.
    """
    frame = batch.raw.select(key)
    # Categories are numbered batch by batch: only their text is the same in all of them.
    plain = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    # A fixed seed: equal keys of different batches must get equal hashes.
    hashes = pl.Series("h", plain.hash_rows(seed=11))
    is_whole = frame.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
    return pl.select(pl.when(is_whole).then(hashes)).to_series()


def _newest(batch: TypedBatch, name: str, so_far: datetime | None) -> datetime | None:
    column = batch.typed[name]
    if not isinstance(column.dtype, pl.Datetime | pl.Date):
        raise DataError(
            f"validation.freshness: {name} is {column.dtype}, not a time.",
            f"Declare it: columns: {{{name}: datetime}}.",
            name,
        )
    newest: Any = column.max()
    if newest is None:
        return so_far
    if not isinstance(newest, datetime):
        newest = datetime(newest.year, newest.month, newest.day, tzinfo=UTC)
    # Times without a zone are taken as UTC.
    newest = newest if newest.tzinfo else newest.replace(tzinfo=UTC)
    return newest if so_far is None or newest > so_far else so_far


def _row_check_result(check: RowCheck, failed: int, checked: int) -> CheckResult:
    # A check that no row takes part in, as of an empty column, does not fail.
    value = 1 - failed / checked if checked else 1.0
    return CheckResult(
        check=check.check,
        feature=check.feature,
        value=value,
        threshold=check.threshold,
        passed=value >= check.threshold,
        failed=failed,
        rows=checked,
        reason=check.reason,
    )


def _check_uniqueness(
    config: ValidationConfig, table: CheckedTable, key: Key, parts: Sequence[pl.Series]
) -> _Outcome:
    hashes = pl.concat(parts) if parts else pl.Series([], dtype=pl.UInt64)
    counts = hashes.value_counts(name="n")
    repeated = counts.filter(pl.col("n") > 1)
    is_row = key == tuple(table.schema) and len(key) > 1
    feature = "*" if is_row else ", ".join(key)
    check = RowCheck(
        check="uniqueness",
        feature=feature,
        threshold=config.quality_checks.uniqueness_threshold,
        reason="the row occurs more than once" if is_row else f"{feature} occurs more than once",
        mask=lambda batch: _key_hashes(batch, key).is_in(repeated.to_series(0).implode()),
        example_columns=() if is_row else key,
    )
    value = counts.height / len(hashes) if len(hashes) else 1.0
    result = _row_check_result(check, int(repeated["n"].sum()), len(hashes))
    # Its value is the share of distinct keys, not of rows whose key occurs once.
    return _Outcome(check, replace(result, value=value, passed=value >= check.threshold))


def _table_checks(
    config: ValidationConfig, table: CheckedTable, tally: _Tally
) -> Iterator[CheckResult]:
    """Checks of the table as a whole."""
    least = config.min_rows
    yield CheckResult(
        check="rows",
        feature="*",
        value=float(tally.rows),
        threshold=float(least),
        passed=tally.rows >= least,
        rows=tally.rows,
    )
    if table.damaged:
        total = tally.rows + len(table.damaged)
        share = tally.rows / total
        yield CheckResult(
            check="readable",
            feature="*",
            value=share,
            threshold=config.quality_checks.validity_threshold,
            passed=share >= config.quality_checks.validity_threshold,
            failed=len(table.damaged),
            rows=total,
            reason="the row cannot be read",
            examples=tuple(
                DamagedExample(row=row.position, value=row.content, keys={}, reason=row.reason)
                for row in table.damaged[: config.examples]
            ),
        )
    for name, rule in config.columns.items():
        if rule.required:
            is_there = name in table.schema
            missing = f"there is no column {name}; found: {', '.join(table.schema)}"
            reason = "" if is_there else missing
            yield CheckResult("present", name, float(is_there), 1.0, is_there, reason=reason)
    if config.extra_columns == "refuse":
        extra = [name for name in table.schema if name not in config.columns]
        reason = f"not declared: {', '.join(extra)}" if extra else ""
        yield CheckResult("extra_columns", "*", float(len(extra)), 0.0, not extra, reason=reason)
    if config.freshness is not None:
        yield _check_freshness(config.freshness, tally.newest)


def _check_freshness(rule: FreshnessRule, newest: datetime | None) -> CheckResult:
    limit = rule.max_age.total_seconds()
    if newest is None:
        reason = f"no row has a {rule.column}"
        # An infinite age is stored as null, in JSON and in the database.
        return CheckResult("freshness", rule.column, float("inf"), limit, False, reason=reason)
    age = ((rule.as_of or utc_now()) - newest).total_seconds()
    reason = f"the newest row is of {newest.isoformat()}"
    return CheckResult("freshness", rule.column, age, limit, age <= limit, reason=reason)


def _collect_failing_rows(
    table: CheckedTable,
    outcomes: Sequence[_Outcome],
    keys: Sequence[str],
    most_examples: int,
    writer: QuarantineWriter,
) -> list[CheckResult]:
    """The results with examples; the rows that made a check fail go to the quarantine."""
    for damaged in table.damaged:
        writer.write(asdict(damaged))
    failing = [outcome for outcome in outcomes if outcome.result.failed]
    reasons = {
        str(number): outcome.check.reason
        for number, outcome in enumerate(failing)
        if not outcome.result.passed
    }
    # A second pass instead of rows kept in the first one: most tables pass, and need none.
    for batch in table.batches() if failing else ():
        # Null means that the row was not checked, which is no failure.
        masks = _masks([outcome.check for outcome in failing], batch).fill_null(False)
        for outcome, mask in zip(failing, masks.iter_columns(), strict=True):
            room = max(most_examples - len(outcome.examples), 0)
            outcome.examples.extend(
                _row_example(batch, row, outcome.check.example_columns, keys)
                for row in mask.arg_true()[:room]
            )
        if reasons:
            _quarantine_rows(writer, batch, masks, reasons)
    return [replace(outcome.result, examples=tuple(outcome.examples)) for outcome in outcomes]


def _row_example(
    batch: TypedBatch, row: int, columns: Sequence[str], keys: Sequence[str]
) -> RowExample:
    """One failing row: its position, the value at fault as the source has it, and its keys."""
    values = {name: _to_json_value(batch.raw[name][row]) for name in columns}
    return RowExample(
        row=batch.positions[row],
        value=next(iter(values.values())) if len(values) == 1 else values,
        keys={name: _to_json_value(batch.raw[name][row]) for name in keys},
    )


def _quarantine_rows(
    writer: QuarantineWriter, batch: TypedBatch, masks: pl.DataFrame, reasons: Mapping[str, str]
) -> None:
    """Write the rows that a check refuses, with all reasons, by column of ``masks``."""
    refused = masks.select(reasons.keys())
    failing = refused.select(pl.any_horizontal(pl.all())).to_series().arg_true()
    rows = batch.raw[failing].with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    for index, content in zip(failing, rows.iter_rows(named=True), strict=True):
        fails = zip(reasons.values(), refused.row(index), strict=True)
        writer.write(
            {
                POSITION: batch.positions[index],
                REASON: "; ".join(reason for reason, is_failing in fails if is_failing),
                "content": {name: _to_json_value(value) for name, value in content.items()},
            }
        )


def _to_json_value(value: Any) -> Any:
    """A value that JSON can hold; long texts and lists are truncated."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # JSON knows neither NaN nor infinity; their text shows what the source has.
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, list | pl.Series):
        return [_to_json_value(item) for item in list(value)[:_MOST_ITEMS]]
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
