"""Counters of a computation: values outside their limits, and resolver calls that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from sunloom.core.telemetry import get_logger
from sunloom.features.engine.source_rows import SourceRows
from sunloom.features.expressions.validations import violation_count
from sunloom.features.plan.expressions import Aggregate, inner, own_columns, walk
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan

_log = get_logger("features.report")


@dataclass
class Counters:
    """Counts, by name.

    Attributes:
        validations: Feature (``class.name``) to its values outside the declared limits. A source
            feature counts once a source row, a computed one once a query row.
        resolver_failures: Resolver to its failed calls whose value is null or a default.
        repeated_ids: Class to its source rows with the id of an earlier event, which count again.
        deduplicated: Class to its source rows that were left out as repeats.
    """

    validations: Counter[str] = field(default_factory=Counter)
    resolver_failures: Counter[str] = field(default_factory=Counter)
    repeated_ids: Counter[str] = field(default_factory=Counter)
    deduplicated: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counters) -> None:
        """Add another part's counts."""
        self.validations.update(other.validations)
        self.resolver_failures.update(other.resolver_failures)
        self.repeated_ids.update(other.repeated_ids)
        self.deduplicated.update(other.deduplicated)

    def add_computation(self, other: Counters) -> None:
        """Add another computation's counts over the same sources, whose repeats are the same."""
        repeated, deduplicated = self.repeated_ids.copy(), self.deduplicated.copy()
        self.add(other)
        self.repeated_ids = repeated | other.repeated_ids
        self.deduplicated = deduplicated | other.deduplicated

    def counts(self) -> dict[str, dict[str, int]]:
        """The counts by kind and name, without kinds that counted nothing."""
        kinds: Mapping[str, Counter[str]] = vars(self)
        return {kind: dict(sorted(counted.items())) for kind, counted in kinds.items() if counted}

    def log_and_count(self) -> dict[str, dict[str, int]]:
        """The counts, after a line of the log for each name."""
        for name, count in sorted(self.validations.items()):
            _log.warning("%d values of %s are outside its limits", count, name)
        for name, count in sorted(self.resolver_failures.items()):
            _log.warning("%d calls of resolver %s failed", count, name)
        for name, count in sorted(self.repeated_ids.items()):
            _log.warning(
                "%d rows of %s have the id of an earlier one and count again; "
                "`deduplicate` on the source leaves them out",
                count,
                name,
            )
        for name, count in sorted(self.deduplicated.items()):
            _log.info("%d repeated rows of %s are left out", count, name)
        return self.counts()

    @classmethod
    def merge(cls, parts: Iterable[Counters]) -> Counters:
        """The counts of all parts together."""
        merged = cls()
        for part in parts:
            merged.add(part)
        return merged


def count_violations(plan: Plan, namespace: str, frame: pl.DataFrame) -> Counter[str]:
    """Violations of limits among a class's source rows, by the features' full names.

    A row is counted where it is read, not where it is used: many query rows, and several workers,
    may use the same one.

    Args:
        plan: What is computed.
        namespace: The class.
        frame: Its source rows in the plan's types.
    """
    item = plan.class_plan(namespace)
    counts: dict[str, int] = {}
    columns = [f for f in item.features if f.validations and f.name in frame.columns]
    if columns:
        expressions = [violation_count(f, pl.col(f.name)).alias(f.fqn) for f in columns]
        counts |= frame.select(expressions).row(0, named=True)
    computed = [f for f in _computed_per_row(plan, item) if f.validations]
    if computed:
        rows = SourceRows(item, frame)
        counts |= {feature.fqn: rows.violations(feature) for feature in computed}
    return Counter({name: count for name, count in counts.items() if count})


def _computed_per_row(plan: Plan, item: ClassPlan) -> Sequence[FeaturePlan]:
    """Features that aggregates over the class compute from a row alone."""
    aggregated = {
        name
        for owner in plan.classes
        for feature in owner.features
        if feature.expression is not None
        for node in walk(feature.expression)
        if isinstance(node, Aggregate) and owner.join(node.join).target == item.namespace
        for part in inner(node)
        for name in own_columns(part)
    }
    return [f for f in item.row_features(aggregated) if f.expression is not None]
