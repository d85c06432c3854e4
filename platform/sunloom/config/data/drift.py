"""The comparison of two tables' distributions: methods, thresholds, columns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sunloom.config.loading.model import Model

DriftMethod = Literal["psi", "jensenshannon", "kl_div", "wasserstein", "ks"]
"""Evidently's names; ``ks`` gives a p-value, the others a distance."""


class FeatureBound(Model):
    """Method and threshold of one feature, where they differ from the others'."""

    method: DriftMethod | None = None
    """Overrides ``drift.method``."""
    threshold: float | None = None
    """Overrides ``drift.threshold``."""


class DriftConfig(Model):
    """How distributions are compared."""

    method: DriftMethod = "psi"
    """Statistic for every feature without an entry in ``per_feature``."""
    threshold: float = Field(default=0.2, gt=0)
    """Drift from this value on; for the p-value of ``ks``, below it."""
    features: tuple[str, ...] = ()
    """Columns compared; every numeric one but ids when empty."""
    per_feature: dict[str, FeatureBound] = Field(default_factory=dict)
    """Features with a method or threshold of their own."""
    engine: Literal["evidently", "direct"] = "evidently"
    """``direct`` computes the same numbers in a fraction of the time and writes no HTML."""
    exclude: tuple[str, ...] = ("id", "entity_id", "customer_id")
    """Identifiers; never compared and never in a report."""
