"""The validation of a table: one pass that counts, and one for the rows that fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.data import FreshnessRule, ValidationConfig
from sunloom.core.database import utc_now
from sunloom.data.quality.batches import CheckedTable, TypedBatch
from sunloom.data.quality.checks import RowCheck, row_checks
from sunloom.data.quality.drift_check import compare_with_reference
from sunloom.data.quality.failing_rows import quarantine_rows, row_example
from sunloom.data.quality.profiles import Profiler
from sunloom.data.quality.report import CheckResult, DamagedExample, QualityReport, RowExample
from sunloom.data.quality.rules import check_rules_fit, declared_types, key_columns
from sunloom.data.quarantine import QuarantineWriter
from sunloom.data.sources.table_files import Damaged
from sunloom.errors import DataError

Key = tuple[str, ...]


@dataclass(frozen=True)
class _Outcome:
    """A check of single rows, and its result over the whole table."""

    check: RowCheck
    result: CheckResult


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
    hashes: dict[Key, list[pl.Series]] = field(default_factory=dict)
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
    check_rules_fit(config, table)
    keys = key_columns(config, table.schema)
    checks = row_checks(config, table, keys)
    tally = _Tally([0] * len(checks), [0] * len(checks))
    tally.hashes = {key: [] for key in _unique_keys(config, table, keys)}
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
    drift, shapes = (
        compare_with_reference(table, reference, config, keys) if reference else ((), {})
    )
    return QualityReport(
        name=table.name,
        rows=tally.rows,
        checks=(*_table_checks(config, table, tally), *row_results),
        drift=drift,
        profiles=profiler.profiles(),
        created_at=utc_now(),
        shapes=shapes,
        quarantine=writer.path,
    )


def _unique_keys(config: ValidationConfig, table: CheckedTable, keys: Key) -> list[Key]:
    # Without a key at least no two whole rows may be equal.
    whole = keys or tuple(table.schema)
    unique = [(name,) for name, rule in config.columns.items() if rule.unique]
    return [whole, *[key for key in unique if key != whole and key[0] in table.schema]]


def _count(
    tally: _Tally, batch: TypedBatch, checks: Sequence[RowCheck], freshness: FreshnessRule | None
) -> None:
    counts = (
        _masks(checks, batch)
        .select(
            pl.struct(pl.all().sum()).alias("failed"), pl.struct(pl.all().count()).alias("checked")
        )
        .row(0, named=True)
    )
    for number, (failed, checked) in enumerate(
        zip(counts["failed"].values(), counts["checked"].values(), strict=True)
    ):
        tally.failed[number] += int(failed or 0)
        tally.checked[number] += checked
    for key, hashes in tally.hashes.items():
        hashes.append(_key_hashes(batch, key).drop_nulls())
    tally.rows += batch.raw.height
    if freshness is not None:
        tally.newest = _newest(batch, freshness.column, tally.newest)


def _masks(checks: Sequence[RowCheck], batch: TypedBatch) -> pl.DataFrame:
    """A column a check: True where a row fails, null where it is not checked."""
    masks = [check.mask(batch) for check in checks]
    # One select for all checks: Polars evaluates their expressions in parallel.
    return batch.typed.select(
        (mask if isinstance(mask, pl.Expr) else pl.lit(mask)).alias(str(number))
        for number, mask in enumerate(masks)
    )


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
        threshold=config.uniqueness_threshold,
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
        yield _check_readable(table.damaged, tally.rows, config)
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


def _check_readable(
    damaged: Sequence[Damaged], readable: int, config: ValidationConfig
) -> CheckResult:
    total = readable + len(damaged)
    share = readable / total
    examples = tuple(
        DamagedExample(row=row.position, value=row.content, keys={}, reason=row.reason)
        for row in damaged[: config.examples]
    )
    return CheckResult(
        check="readable",
        feature="*",
        value=share,
        threshold=config.validity_threshold,
        passed=share >= config.validity_threshold,
        failed=len(damaged),
        rows=total,
        reason="the row cannot be read",
        examples=examples,
    )


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
    failing = [number for number, outcome in enumerate(outcomes) if outcome.result.failed]
    examples: dict[int, list[RowExample]] = {number: [] for number in failing}
    for damaged in table.damaged:
        writer.write(asdict(damaged))
    # A second pass instead of rows kept in the first one: most tables pass, and need none.
    for batch in table.batches() if failing else ():
        masks = _masks([outcomes[number].check for number in failing], batch)
        refused: list[tuple[str, pl.Series]] = []
        for number, mask in zip(failing, masks.iter_columns(), strict=True):
            check, result = outcomes[number].check, outcomes[number].result
            room = max(most_examples - len(examples[number]), 0)
            rows = mask.fill_null(False).arg_true()[:room]
            examples[number] += [row_example(batch, r, check.example_columns, keys) for r in rows]
            if not result.passed:
                refused.append((check.reason, mask))
        quarantine_rows(writer, batch, refused)
    return [
        replace(outcome.result, examples=tuple(examples.get(number, ())))
        for number, outcome in enumerate(outcomes)
    ]
