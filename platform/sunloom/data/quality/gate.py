"""Quality gates: the validation of a file, and of a batch before it is written to a store."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sunloom.config import Settings
from sunloom.config.data import ValidationConfig
from sunloom.core.database import Database, open_database
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.checked_table import CheckedTable, table_from_frame, table_from_path
from sunloom.data.quality.html_report import write_report
from sunloom.data.quality.report import QualityReport, store_verdict
from sunloom.data.quality.rules import TableRules, complete_rules
from sunloom.data.quality.validate import validate
from sunloom.errors import DataQualityError


def validate_file(
    settings: Settings,
    config: ValidationConfig,
    input: Path,
    *,
    defaults: TableRules | None = None,
    reference: Path | None = None,
    folder: Path | None = None,
) -> QualityReport:
    """Validate a file or folder, write ``report.html`` and ``report.json``, store the verdict.

    Args:
        settings: Database of the verdicts, and the outputs' folder.
        config: The recipe's ``validation``.
        input: Parquet, CSV or JSON lines.
        defaults: Rules of the table's owner, which complete the recipe's.
        reference: Rows taken as normal; the recipe's ``validation.reference`` by default.
        folder: Folder of the report; ``<outputs>/quality/<name of the input>`` by default.

    Raises:
        UsageError: A file does not exist.
        DataError: A file cannot be read, or a column that the rules need is missing.
        ConfigError: A rule does not fit its column.
    """
    if reference is not None:
        # The command line's reference overrides the recipe's.
        config = config.model_copy(update={"reference": reference})
    folder = folder or settings.paths.outputs / "quality" / input.stem
    quarantine = folder / "quarantine.jsonl"
    return _validate_and_store(
        open_database(settings), config, table_from_path(input, config.chunk_rows), name=input.stem,
        defaults=defaults, quarantine=quarantine,
    )  # fmt: skip


def gate(
    database: Database,
    config: ValidationConfig | None,
    batch: pl.DataFrame,
    name: str,
    folder: Path,
    defaults: TableRules | None = None,
) -> QualityReport | None:
    """Let a batch pass or refuse it whole.

    Args:
        database: Keeps the verdict.
        config: The recipe's ``validation``; None lets every batch pass.
        batch: Rows that are about to be written.
        name: The batch's name in reports.
        folder: Folder of the report and the rejected rows (``rejected.jsonl``).
        defaults: Rules of the table's owner, which complete the recipe's.

    Returns:
        The report, or None without rules.

    Raises:
        DataQualityError: A check failed; names the checks and the files. The caller must not
            write the batch then.
    """
    if config is None:
        return None
    report = _validate_and_store(
        database, config, table_from_frame(batch, name), name=name,
        defaults=defaults, quarantine=folder / "rejected.jsonl",
    )  # fmt: skip
    if report.is_passed:
        get_logger("quality").info("%s: %s", name, report.summary())
        return report
    refused = f" Rows refused: {report.quarantine}." if report.quarantine else ""
    raise DataQualityError(
        f"{name} is not written, {report.summary()}.",
        f"Read {report.html}.{refused} What was written before stays.",
        "validation",
    )


def _validate_and_store(
    database: Database,
    config: ValidationConfig,
    table: CheckedTable,
    *,
    name: str,
    defaults: TableRules | None,
    quarantine: Path,
) -> QualityReport:
    rules = config if defaults is None else complete_rules(config, defaults, table.schema)
    reference = table_from_path(rules.reference, rules.chunk_rows) if rules.reference else None
    report = write_report(validate(table, rules, reference, quarantine), quarantine.parent)
    # Also of a batch that is refused: the refusal must be seen in the database and on the page.
    store_verdict(database, name, report)
    return report
