"""Counters of a computation: values outside their limits, and resolver calls that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sunloom.core.telemetry import get_logger

_log = get_logger("features.report")


@dataclass
class Counters:
    """Counts, by name.

    Attributes:
        validations: Feature (``class.name``) to its values outside the declared limits. A source
            feature counts once a source row, a computed one once a query row.
        resolver_failures: Resolver to its failed calls whose value is null or a default.
    """

    validations: Counter[str] = field(default_factory=Counter)
    resolver_failures: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counters) -> None:
        """Add another part's counts."""
        self.validations.update(other.validations)
        self.resolver_failures.update(other.resolver_failures)

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
        return self.counts()

    @classmethod
    def merge(cls, parts: Iterable[Counters]) -> Counters:
        """The counts of all parts together."""
        merged = cls()
        for part in parts:
            merged.add(part)
        return merged
