"""The gate before a store: a batch that fails is not written, and the last good one stays."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from sunloom.config import Settings
from sunloom.config.data.validation import ValidationConfig
from sunloom.core.telemetry import get_logger
from sunloom.data.quality.batches import rows_of_frame, rows_of_path
from sunloom.data.quality.html_report import write_report
from sunloom.data.quality.report import QualityReport
from sunloom.data.quality.results_table import store_checks
from sunloom.data.quality.rules import with_plan
from sunloom.data.quality.validate import validate
from sunloom.errors import DataQualityError
from sunloom.features.plan.feature_sets import Plan

QUARANTINE = "rejected.jsonl"


def gate(
    settings: Settings,
    config: ValidationConfig | None,
    batch: pl.DataFrame,
    name: str,
    folder: Path,
    plan: Plan | None = None,
) -> QualityReport | None:
    """Let a batch pass or refuse it whole.

    Args:
        settings: Where the verdict is kept.
        config: The recipe's ``validation``; None lets everything pass.
        batch: What is about to be written.
        name: The batch's name in reports.
        folder: Where the report and the rejected rows (``rejected.jsonl``) are written.
        plan: Definitions that fill up the rules.

    Returns:
        The report, or None without rules.

    Raises:
        DataQualityError: A check failed; names the checks and the files. The caller writes
            nothing then.
    """
    if config is None:
        return None
    rules = with_plan(config, plan, batch.columns) if plan is not None else config
    reference = rows_of_path(rules.reference, rules.chunk_rows) if rules.reference else None
    rows = rows_of_frame(batch, name)
    report = validate(rows, rules, reference, folder / QUARANTINE)
    report = write_report(report, folder)
    store_checks(settings, name, report)
    if report.passed:
        get_logger("quality").info("%s: %s", name, report.summary())
        return report
    aside = f" Rows refused: {report.quarantine}." if report.quarantine else ""
    raise DataQualityError(
        f"{name} is not written, {report.summary()}.",
        f"Read {report.html}.{aside} What was written before stays.",
        "validation",
    )
