"""Validation of request rows by the rules that materialization stored beside the feature set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import polars as pl

from sunloom.config.data import DriftDetection, ValidationConfig
from sunloom.data.quality.checked_table import (
    CheckedTable,
    table_from_frame,
    table_from_path,
    table_from_records,
)
from sunloom.data.quality.drift import (
    ColumnDrift,
    FeatureDrift,
    RowSample,
    compare_with_reference,
    is_comparable,
)
from sunloom.data.quality.report import CheckResult
from sunloom.data.quality.rules import complete_rules, declared_types, key_columns
from sunloom.data.quality.validate import validate
from sunloom.feature_store.quality_gate import table_rules
from sunloom.feature_store.stores.online.key_value import VALIDATION, VALIDATION_REFERENCE
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.features.plan.feature_sets import Plan

_NO_REFERENCE = "The feature set keeps no reference (validation.reference)."


@dataclass(frozen=True)
class RequestVerdict:
    """The verdict of the stored rules on a request's rows.

    Attributes:
        checks: Results of the checks.
        drift: Columns that were compared with the reference, or cannot be.
        drift_skipped: What was not judged, and why; None where all was.
    """

    checks: Sequence[CheckResult]
    drift: Sequence[FeatureDrift]
    drift_skipped: str | None

    @property
    def is_passed(self) -> bool:
        """Whether every check passed, and every compared column is steady."""
        is_steady = not any(column.drifted for column in self.drift)
        return is_steady and all(check.passed for check in self.checks)


def store_rules(
    store: OnlineStore, feature_set: str, config: ValidationConfig | None, plan: Plan
) -> None:
    """Store a set's rules and a sample of its reference beside its records.

    None removes those of an earlier recipe.
    """
    rules = reference = None
    if config is not None:
        names = (plan.root.key, *plan.outputs)
        completed = complete_rules(config, table_rules(plan), names)
        rules = completed.model_dump_json(exclude_unset=True).encode()
        reference = _encode_reference(completed, plan.root.key)
    name = feature_set.encode()
    store.apply([(VALIDATION, name, rules), (VALIDATION_REFERENCE, name, reference)])


def validate_request(
    store: OnlineStore, feature_set: str, records: Sequence[Mapping[str, Any]]
) -> RequestVerdict:
    """Check a request's rows by the stored rules; no checks where the set has none.

    A request is a part of a table: the number of its rows is not checked, nor are keys and times
    that it lacks. Drift is, by the same rule as a table's.
    """
    name = feature_set.encode()
    (stored_rules,) = store.get_many(VALIDATION, [name])
    if stored_rules is None:
        return RequestVerdict((), (), _NO_REFERENCE)
    table = table_from_records(records, feature_set)
    config = _decode_rules(stored_rules)
    rules = _request_rules(config, table)
    checks = [check for check in validate(table, rules).checks if check.check != "rows"]
    (reference,) = store.get_many(VALIDATION_REFERENCE, [name])
    if reference is None:
        return RequestVerdict(checks, (), _NO_REFERENCE)
    drift = _compare(table.with_types(declared_types(rules)), reference, config)
    return RequestVerdict(checks, drift.columns, drift.skipped)


def _decode_rules(stored: bytes) -> ValidationConfig:
    """The stored rules; those that an earlier version stored have the keys of its recipes."""
    rules = json.loads(stored)
    for name, key in ValidationConfig.renamed.items():
        if name in rules:
            section, _, present = key.partition(".")
            rules.setdefault(section, {})[present] = rules.pop(name)
    # As JSON again: from plain data, pydantic reads no times and paths as lenient as from JSON.
    return ValidationConfig.model_validate_json(json.dumps(rules))


def _encode_reference(rules: ValidationConfig, key: str) -> bytes | None:
    """A sample of the reference as Parquet, without keys and columns that cannot be compared."""
    if rules.reference is None:
        return None
    reference = table_from_path(rules.reference, rules.chunk_rows)
    table = reference.with_types(declared_types(rules))
    drift = rules.drift_detection
    excluded = {key, *key_columns(rules, table.schema), *drift.exclude}
    names = drift.columns or [name for name in table.schema if name not in excluded]
    # A fixed seed: materialising again from the same reference stores the same sample.
    sample = RowSample(drift.sample, seed=0)
    for batch in table.batches():
        sample.add(batch.typed.select(names))
    rows, buffer = sample.sampled_rows(), BytesIO()
    if rows is None:
        return None
    kept = names if drift.columns else [name for name in names if is_comparable(rows[name])]
    rows.select(kept).write_parquet(buffer)
    return buffer.getvalue()


def _compare(table: CheckedTable, stored_reference: bytes, config: ValidationConfig) -> ColumnDrift:
    sample = pl.read_parquet(BytesIO(stored_reference))
    # Bounds of columns that are not in the sample, such as keys, ask for no comparison.
    bounds = config.drift_detection.per_column
    own = {name: bound for name, bound in bounds.items() if name in sample.columns}
    reference = table_from_frame(sample, "the reference")
    detection = config.drift_detection.model_copy(update={"per_column": own})
    rules = config.model_copy(update={"drift_detection": detection})
    return compare_with_reference(table, reference, rules, ())


def _request_rules(config: ValidationConfig, table: CheckedTable) -> ValidationConfig:
    """The rules without those that need columns that the request lacks, or the whole table."""
    names = set(table.schema)
    freshness = config.freshness
    return config.model_copy(
        update={
            "keys": tuple(name for name in config.keys if name in names),
            "freshness": freshness if freshness and freshness.column in names else None,
            "references": tuple(rule for rule in config.references if set(rule.columns) <= names),
            "min_rows": 0,
            # Drift is compared apart, against the stored sample.
            "drift_detection": DriftDetection(),
        }
    )
