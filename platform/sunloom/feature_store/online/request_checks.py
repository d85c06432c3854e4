"""Validation of request rows by the rules that materialization stored beside the feature set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import polars as pl

from sunloom.config.data.validation import ValidationConfig
from sunloom.data.quality.batches import CheckedTable, rows_of_frame, rows_of_path, rows_of_records
from sunloom.data.quality.drift.psi import has_value
from sunloom.data.quality.drift.sampling import RowSample
from sunloom.data.quality.drift_check import compare, is_comparable
from sunloom.data.quality.html_report import finite
from sunloom.data.quality.rules import complete_rules, declared_types, keys_of
from sunloom.data.quality.validate import validate
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.feature_store.stores.online.spaces import VALIDATION, VALIDATION_REFERENCE
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.quality_rules import table_rules

_NO_REFERENCE = "The feature set keeps no reference (validation.reference)."


@dataclass(frozen=True)
class Verdict:
    """What the kept rules say of a request's rows.

    Attributes:
        checks: Outcomes of the checks.
        drift: Compared columns.
        drift_skipped: What was not compared, and why; None where all was.
    """

    checks: Sequence[Mapping[str, Any]]
    drift: Sequence[Mapping[str, Any]]
    drift_skipped: str | None

    @property
    def passed(self) -> bool:
        """Whether every check passed and no column drifted."""
        is_steady = not any(one["drifted"] for one in self.drift)
        return is_steady and all(check["passed"] for check in self.checks)


def store_rules(
    store: OnlineStore, feature_set: str, config: ValidationConfig | None, plan: Plan
) -> None:
    """Keep a set's rules and a sample of its reference beside its records.

    None forgets those of an earlier recipe.
    """
    names = (plan.root.key, *plan.outputs)
    rules = None if config is None else complete_rules(config, table_rules(plan), names)
    packed = None if rules is None else rules.model_dump_json(exclude_unset=True).encode()
    sample = None if rules is None else _packed_reference(rules, plan.root.key)
    name = feature_set.encode()
    store.apply([(VALIDATION, name, packed), (VALIDATION_REFERENCE, name, sample)])


def judge_records(
    store: OnlineStore, feature_set: str, records: Sequence[Mapping[str, Any]]
) -> Verdict:
    """What the kept rules say of rows; no checks where the set has none.

    A request is a part of a table: how many rows there are is not judged, nor are keys and times
    that it does not bring; drift is, from ``drift_min_rows`` rows on.
    """
    name = feature_set.encode()
    (packed,) = store.get_many(VALIDATION, [name])
    if packed is None:
        return Verdict((), (), _NO_REFERENCE)
    rows = rows_of_records(records, feature_set)
    config = ValidationConfig.model_validate_json(packed)
    rules = _for_request(config, rows)
    checks = [
        check
        for check in finite(validate(rows, rules).to_dict()["checks"])
        if check["check"] != "rows"
    ]
    (sample,) = store.get_many(VALIDATION_REFERENCE, [name])
    if sample is None:
        return Verdict(checks, (), _NO_REFERENCE)
    if len(records) < config.drift_min_rows:
        least = f"drift is judged from {config.drift_min_rows:,} on (validation.drift_min_rows)"
        return Verdict(checks, (), f"{len(records):,} rows came; {least}.")
    return Verdict(checks, *_drift(rows.declared(declared_types(rules)), sample, config))


def _packed_reference(rules: ValidationConfig, key: str) -> bytes | None:
    if rules.reference is None:
        return None
    rows = rows_of_path(rules.reference, rules.chunk_rows).declared(declared_types(rules))
    aside = {key, *keys_of(rules, rows.schema), *rules.drift_exclude}
    names = rules.drift_columns or [name for name in rows.schema if name not in aside]
    sample = RowSample(rules.drift_sample, seed=0)
    for chunk in rows.chunks():
        sample.add(chunk.typed.select(names))
    frame, buffer = sample.taken(), BytesIO()
    if frame is None:
        return None
    kept = names if rules.drift_columns else [n for n in names if is_comparable(frame[n])]
    frame.select(kept).write_parquet(buffer)
    return buffer.getvalue()


def _drift(
    rows: CheckedTable, sample: bytes, config: ValidationConfig
) -> tuple[list[dict[str, Any]], str | None]:
    """The comparison, and which of the reference's columns could not take part."""
    reference = rows_of_frame(pl.read_parquet(BytesIO(sample)), "the reference")
    there = [name for name in reference.schema if _can_compare(name, rows, reference)]
    lacking = ", ".join(name for name in reference.schema if name not in there)
    skipped = f"Without values like the reference's: {lacking}." if lacking else None
    if not there:
        return [], skipped
    own = {name: one for name, one in config.drift_per_column.items() if name in there}
    update = {"drift_columns": tuple(there), "drift_per_column": own}
    found, _ = compare(rows, reference, config.model_copy(update=update), ())
    plain: list[dict[str, Any]] = finite([one.to_dict() for one in found])
    return plain, skipped


def _can_compare(name: str, rows: CheckedTable, reference: CheckedTable) -> bool:
    if name not in rows.schema or not has_value(rows.column(name)):
        return False
    return rows.dtype(name).is_numeric() == reference.dtype(name).is_numeric()


def _for_request(config: ValidationConfig, rows: CheckedTable) -> ValidationConfig:
    fresh = config.freshness
    here = [rule for rule in config.references if set(rule.columns) <= set(rows.schema)]
    return config.model_copy(
        update={
            "keys": tuple(name for name in config.keys if name in rows.schema),
            "freshness": fresh if fresh is not None and fresh.column in rows.schema else None,
            "references": tuple(here),
            "min_rows": 0,
            "drift_columns": (),
            "drift_per_column": {},
        }
    )
