"""Judge a table: one pass that counts, and one for examples where something fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.data.validation import FreshnessRule, ValidationConfig
from sunloom.core.database import utc_now
from sunloom.data.quality.batches import CheckedTable, TypedBatch
from sunloom.data.quality.checks import RowCheck, row_checks
from sunloom.data.quality.drift_check import compare
from sunloom.data.quality.profiles import Profiler
from sunloom.data.quality.quarantine import QuarantineWriter, example
from sunloom.data.quality.report import CheckResult, QualityReport
from sunloom.data.quality.rules import declared_types, keys_of, require_known
from sunloom.data.sources.files import Damaged
from sunloom.errors import DataError


@dataclass
class _Tally:
    """What the first pass adds up."""

    rows: int = 0
    failed: list[int] = field(default_factory=list)
    judged: list[int] = field(default_factory=list)
    keys: dict[tuple[str, ...], list[pl.Series]] = field(default_factory=dict)
    newest: datetime | None = None


def validate(
    rows: CheckedTable,
    config: ValidationConfig,
    reference: CheckedTable | None = None,
    quarantine: Path | None = None,
) -> QualityReport:
    """Judge rows by the rules.

    Args:
        rows: The rows.
        config: The rules.
        reference: Rows taken as normal; without them nothing is said about drift.
        quarantine: Where the rows that make a check fail are written, as JSON lines with
            ``position``, ``reason`` and ``content``.

    Raises:
        DataError: A column that the rules name outside ``columns`` is missing.
        ConfigError: A rule does not fit the column's type.
        NotFoundError: There is no such check of your own.
    """
    rows = rows.declared(declared_types(config))
    require_known(config, rows)
    keys = keys_of(config, rows.schema)
    checks = row_checks(config, rows, keys)
    unique = _unique_keys(config, rows, keys)
    tally, profiler = _Tally(), Profiler(rows)
    for chunk in rows.chunks():
        _count(tally, chunk, checks, unique, config.freshness)
        profiler.add(chunk)
    checks, outcomes = _judge(config, rows, tally, checks, unique)
    outcomes, written = _look_again(config, rows, keys, checks, outcomes, quarantine)
    drift, shapes = compare(rows, reference, config, keys) if reference else ((), {})
    return QualityReport(
        rows.name,
        tally.rows,
        (*_table_checks(config, rows, tally), *outcomes),
        drift,
        profiler.profiles(),
        utc_now(),
        shapes,
        written,
    )


def _unique_keys(
    config: ValidationConfig, rows: CheckedTable, keys: tuple[str, ...]
) -> list[tuple[str, ...]]:
    single = [(n,) for n, rule in config.columns.items() if rule.unique and n in rows.schema]
    whole = keys or tuple(rows.schema)
    return [whole, *[key for key in single if key != whole]]


def _count(
    tally: _Tally,
    chunk: TypedBatch,
    checks: Sequence[RowCheck],
    unique: Sequence[tuple[str, ...]],
    freshness: FreshnessRule | None,
) -> None:
    masks = _masks(checks, chunk)
    counted = masks.select(
        pl.struct(pl.all().sum()).alias("failed"), pl.struct(pl.all().count()).alias("judged")
    ).row(0, named=True)
    failed, judged = list(counted["failed"].values()), list(counted["judged"].values())
    tally.failed = _added(tally.failed, [int(count or 0) for count in failed])
    tally.judged = _added(tally.judged, judged)
    for key in unique:
        tally.keys.setdefault(key, []).append(_hashed(chunk, key).drop_nulls())
    tally.rows += chunk.raw.height
    if freshness is not None:
        tally.newest = _newest(chunk, freshness.column, tally.newest)


def _masks(checks: Sequence[RowCheck], chunk: TypedBatch) -> pl.DataFrame:
    columns = [
        (mask if isinstance(mask, pl.Expr) else pl.lit(mask)).alias(str(number))
        for number, mask in enumerate(check.mask(chunk) for check in checks)
    ]
    return chunk.typed.select(columns)


def _added(into: list[int], counts: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(into or [0] * len(counts), counts, strict=True)]


def _hashed(chunk: TypedBatch, key: tuple[str, ...]) -> pl.Series:
    """A number for each key; null where a part of it is missing."""
    frame = chunk.raw.select(key) if len(key) > 1 else chunk.raw.select(key[0])
    plain = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    whole = pl.Series("h", plain.hash_rows(seed=11))
    there = frame.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
    return pl.select(pl.when(there).then(whole)).to_series()


def _newest(chunk: TypedBatch, name: str, so_far: datetime | None) -> datetime | None:
    column = chunk.typed[name]
    if not isinstance(column.dtype, pl.Datetime | pl.Date):
        raise DataError(
            f"validation.freshness: {name} is {column.dtype}, not a time.",
            f"Declare it: columns: {{{name}: datetime}}.",
            name,
        )
    found: Any = column.max()
    if found is None:
        return so_far
    if not isinstance(found, datetime):
        found = datetime(found.year, found.month, found.day, tzinfo=UTC)
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found if so_far is None or found > so_far else so_far


def _judge(
    config: ValidationConfig,
    rows: CheckedTable,
    tally: _Tally,
    checks: Sequence[RowCheck],
    unique: Sequence[tuple[str, ...]],
) -> tuple[list[RowCheck], list[CheckResult]]:
    """The row checks, those of uniqueness included, and what each came to."""
    outcomes = [
        _share(check, failed, judged)
        for check, failed, judged in zip(checks, tally.failed, tally.judged, strict=True)
    ]
    everything = list(checks)
    for key in unique:
        check, outcome = _uniqueness(config, rows, key, tally.keys.get(key, []))
        everything.append(check)
        outcomes.append(outcome)
    return everything, outcomes


def _share(check: RowCheck, failed: int, judged: int) -> CheckResult:
    value = 1 - failed / judged if judged else 1.0
    return CheckResult(
        check.check,
        check.feature,
        value,
        check.threshold,
        value >= check.threshold,
        failed,
        judged,
        check.reason,
    )


def _uniqueness(
    config: ValidationConfig, rows: CheckedTable, key: tuple[str, ...], parts: Sequence[pl.Series]
) -> tuple[RowCheck, CheckResult]:
    hashes = pl.concat(parts) if parts else pl.Series([], dtype=pl.UInt64)
    counts = hashes.value_counts(name="n")
    again = counts.filter(pl.col("n") > 1)
    repeated = again.to_series(0)
    whole = key == tuple(rows.schema) and len(key) > 1
    feature = "*" if whole else ", ".join(key)
    reason = "the row occurs more than once" if whole else f"{feature} occurs more than once"
    value = counts.height / len(hashes) if len(hashes) else 1.0
    least = config.uniqueness_threshold
    check = RowCheck(
        "uniqueness",
        feature,
        least,
        reason,
        lambda chunk: _hashed(chunk, key).is_in(repeated.implode()),
        () if whole else key,
    )
    failed = int(again["n"].sum())
    return check, CheckResult(
        "uniqueness", feature, value, least, value >= least, failed, len(hashes), reason
    )


def _table_checks(
    config: ValidationConfig, rows: CheckedTable, tally: _Tally
) -> Iterator[CheckResult]:
    """Checks of the table as a whole."""
    enough = tally.rows >= config.min_rows
    yield CheckResult(
        "rows", "*", float(tally.rows), float(config.min_rows), enough, rows=tally.rows
    )
    if rows.damaged:
        yield _readable(rows.damaged, tally.rows, config)
    for name, rule in config.columns.items():
        if rule.required:
            there = name in rows.schema
            reason = "" if there else f"there is no column {name}; found: {', '.join(rows.schema)}"
            yield CheckResult("present", name, float(there), 1.0, there, reason=reason)
    if config.extra_columns == "refuse":
        extra = [name for name in rows.schema if name not in config.columns]
        reason = f"not declared: {', '.join(extra)}" if extra else ""
        yield CheckResult("extra_columns", "*", float(len(extra)), 0.0, not extra, reason=reason)
    if config.freshness is not None:
        yield _freshness(config.freshness, tally.newest)


def _readable(damaged: Sequence[Damaged], read: int, config: ValidationConfig) -> CheckResult:
    total = read + len(damaged)
    share, least = read / total, config.validity_threshold
    shown = tuple(
        {"row": one.position, "value": one.content, "keys": {}, "reason": one.reason}
        for one in damaged[: config.examples]
    )
    return CheckResult(
        "readable", "*", share, least, share >= least, len(damaged), total,
        "the row cannot be read", shown,
    )  # fmt: skip


def _freshness(rule: FreshnessRule, newest: datetime | None) -> CheckResult:
    limit = rule.max_age.total_seconds()
    if newest is None:
        reason = f"no row has a {rule.column}"
        return CheckResult("freshness", rule.column, float("inf"), limit, False, reason=reason)
    age = ((rule.as_of or utc_now()) - newest).total_seconds()
    reason = f"the newest row is of {newest.isoformat()}"
    return CheckResult("freshness", rule.column, age, limit, age <= limit, reason=reason)


def _look_again(
    config: ValidationConfig,
    rows: CheckedTable,
    keys: Sequence[str],
    checks: Sequence[RowCheck],
    outcomes: Sequence[CheckResult],
    quarantine: Path | None,
) -> tuple[list[CheckResult], Path | None]:
    """Examples for checks with failing rows, and the quarantine for those that did not pass."""
    failing = [number for number, outcome in enumerate(outcomes) if outcome.failed]
    examples: dict[int, list[dict[str, Any]]] = {number: [] for number in failing}
    with QuarantineWriter(quarantine) as aside:
        for damaged in rows.damaged:
            aside.add_damaged(damaged)
        for chunk in rows.chunks() if failing else ():
            masks = _masks([checks[number] for number in failing], chunk)
            for number, mask in zip(failing, masks.iter_columns(), strict=True):
                room = config.examples - len(examples[number])
                hits = mask.fill_null(False).arg_true()[: max(room, 0)]
                examples[number] += [
                    example(chunk, row, checks[number].shown, keys) for row in hits
                ]
            columns = zip(failing, masks.iter_columns(), strict=True)
            refused = [(checks[n].reason, mask) for n, mask in columns if not outcomes[n].passed]
            aside.add(chunk, refused)
    found = [
        replace(outcome, examples=tuple(examples.get(number, ())))
        for number, outcome in enumerate(outcomes)
    ]
    return found, aside.path
