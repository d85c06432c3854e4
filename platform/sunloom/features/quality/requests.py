"""Rows that come in over HTTP, judged by the rules of the recipe that filled the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sunloom.config.validation import ValidationConfig
from sunloom.features.plan import Plan
from sunloom.features.quality.page import finite
from sunloom.features.quality.rows import Rows, rows_of_records
from sunloom.features.quality.rules import with_plan
from sunloom.features.quality.run import validate
from sunloom.features.store import OnlineStore

_SPACE = "validation"


def keep_rules(
    store: OnlineStore, feature_set: str, config: ValidationConfig | None, plan: Plan
) -> None:
    """Keep a set's rules beside its records; None forgets those of an earlier recipe."""
    rules = None if config is None else with_plan(config, plan, (plan.root.key, *plan.outputs))
    packed = None if rules is None else rules.model_dump_json(exclude_unset=True).encode()
    store.apply([(_SPACE, feature_set.encode(), packed)])


def judge_records(
    store: OnlineStore, feature_set: str, records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What the kept rules say of rows; [] where the set has none.

    A request is a part of a table: how many rows there are, and drift, are not judged, nor are
    keys and times that it does not bring.
    """
    (packed,) = store.get_many(_SPACE, [feature_set.encode()])
    if packed is None:
        return []
    rows = rows_of_records(records, feature_set)
    rules = _for_request(ValidationConfig.model_validate_json(packed), rows)
    report = validate(rows, rules)
    checks: list[dict[str, Any]] = finite(report.to_dict()["checks"])
    return [check for check in checks if check["check"] != "rows"]


def _for_request(config: ValidationConfig, rows: Rows) -> ValidationConfig:
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
