"""Judgement of whole tables: a file's verdict, and the gate that a batch passes before a store."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sunloom.config import Settings
from sunloom.config.data.validation import ValidationConfig
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.batches import CheckedTable, rows_of_frame, rows_of_path
from sunloom.data.quality.html_report import write_report
from sunloom.data.quality.report import QualityReport
from sunloom.data.quality.results_table import store_checks
from sunloom.data.quality.rules import TableRules, complete_rules
from sunloom.data.quality.validate import validate
from sunloom.errors import DataQualityError


def validate_file(
    settings: Settings,
    config: ValidationConfig,
    input: Path,
    *,
    table: TableRules | None = None,
    reference: Path | None = None,
    folder: Path | None = None,
) -> QualityReport:
    """Validate a file or folder, write ``report.html`` and ``report.json``, store the verdict.

    Args:
        settings: Database of the verdicts, and the outputs' folder.
        config: The recipe's ``validation``.
        input: Parquet, CSV or JSON lines.
        table: Rules of the table's owner, which complete the recipe's.
        reference: Rows taken as normal; the recipe's ``validation.reference`` by default.
        folder: Folder of the report; ``<outputs>/quality/<name of the input>`` by default.

    Raises:
        UsageError: A file does not exist.
        DataError: A file cannot be read, or a column that the rules need is missing.
        ConfigError: A rule does not fit its column.
    """
    rows = rows_of_path(input, config.chunk_rows)
    if reference is not None:
        config = config.model_copy(update={"reference": reference})
    folder = folder or settings.paths.outputs / "quality" / input.stem
    quarantine = folder / "quarantine.jsonl"
    return _validate_and_store(settings, config, rows, table, input.stem, quarantine)


def gate(
    settings: Settings,
    config: ValidationConfig | None,
    batch: pl.DataFrame,
    name: str,
    folder: Path,
    table: TableRules | None = None,
) -> QualityReport | None:
    """Let a batch pass or refuse it whole.

    Args:
        settings: Database of the verdicts.
        config: The recipe's ``validation``; None lets every batch pass.
        batch: Rows that are about to be written.
        name: The batch's name in reports.
        folder: Folder of the report and the rejected rows (``rejected.jsonl``).
        table: Rules of the table's owner, which complete the recipe's.

    Returns:
        The report, or None without rules.

    Raises:
        DataQualityError: A check failed; names the checks and the files. The caller must not
            write the batch then.
    """
    if config is None:
        return None
    rows, rejected = rows_of_frame(batch, name), folder / "rejected.jsonl"
    report = _validate_and_store(settings, config, rows, table, name, rejected)
    if report.passed:
        get_logger("quality").info("%s: %s", name, report.summary())
        return report
    refused = f" Rows refused: {report.quarantine}." if report.quarantine else ""
    raise DataQualityError(
        f"{name} is not written, {report.summary()}.",
        f"Read {report.html}.{refused} What was written before stays.",
        "validation",
    )


def _validate_and_store(
    settings: Settings,
    config: ValidationConfig,
    rows: CheckedTable,
    table: TableRules | None,
    name: str,
    quarantine: Path,
) -> QualityReport:
    rules = config if table is None else complete_rules(config, table, rows.schema)
    reference = rows_of_path(rules.reference, rules.chunk_rows) if rules.reference else None
    report = write_report(validate(rows, rules, reference, quarantine), quarantine.parent)
    store_checks(settings, name, report)
    return report
