"""What rows must be like to be used: checks, their report, and the gate before a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.features.quality.batches import gate
    from sunloom.features.quality.own import OwnCheck
    from sunloom.features.quality.page import write_report
    from sunloom.features.quality.records import latest_checks, store_checks
    from sunloom.features.quality.report import Outcome, QualityReport
    from sunloom.features.quality.requests import Verdict, judge_records, keep_rules
    from sunloom.features.quality.rows import Rows, rows_of_frame, rows_of_path, rows_of_records
    from sunloom.features.quality.run import validate

__all__ = [
    "Outcome",
    "OwnCheck",
    "QualityReport",
    "Rows",
    "Verdict",
    "gate",
    "judge_records",
    "keep_rules",
    "latest_checks",
    "rows_of_frame",
    "rows_of_path",
    "rows_of_records",
    "store_checks",
    "validate",
    "write_report",
]

_HOMES = {
    "Outcome": "report",
    "OwnCheck": "own",
    "QualityReport": "report",
    "Rows": "rows",
    "Verdict": "requests",
    "gate": "batches",
    "judge_records": "requests",
    "keep_rules": "requests",
    "latest_checks": "records",
    "rows_of_frame": "rows",
    "rows_of_path": "rows",
    "rows_of_records": "rows",
    "store_checks": "records",
    "validate": "run",
    "write_report": "page",
}

__getattr__ = lazy_exports(__name__, _HOMES)
