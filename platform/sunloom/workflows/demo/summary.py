"""Summary of the demo: what ``outputs/demo/summary.json`` contains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DemoSummary:
    """Figures of the demo, by room.

    Attributes:
        seed: The run's seed.
        seconds: By step, with ``total``.
        data: Rows in, out, quarantined and kept.
        features: Training rows, online entities, agreement of the engines.
        tabular: Metrics of the winner and of every algorithm.
        llm: Metrics of base and adapter.
        agents: Tasks, right answers and seconds by engine.
        monitoring: Drifted features, alerts, report.
        plots: Paths of the pictures.
        urls: Gateway, docs and dashboard.
    """

    seed: int
    seconds: Mapping[str, float]
    data: Mapping[str, Any]
    features: Mapping[str, Any]
    tabular: Mapping[str, Any]
    llm: Mapping[str, Any]
    agents: Mapping[str, Any]
    monitoring: Mapping[str, Any]
    plots: Sequence[str]
    urls: Mapping[str, str]


def summarize(
    figures: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    seconds: Mapping[str, float],
    plots: Sequence[str],
    urls: Mapping[str, str],
) -> DemoSummary:
    """Bring the steps' figures into the summary's form.

    Args:
        figures: By step.
        seed: The run's seed.
        seconds: By step, with ``total``.
        plots: Paths of the pictures.
        urls: Gateway, docs and dashboard.
    """
    data, monitoring = figures["data"], figures["monitoring"]
    base, adapter = figures["base_model"], figures["adapter"]
    return DemoSummary(
        seed=seed,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        data={key: data[key] for key in ("rows_in", "rows_out", "quarantined")}
        | {"kept": data.get("kept", {})},
        features=figures["features"],
        tabular=figures["tabular"],
        llm={
            "base_parameters": base["parameters"],
            "workers": adapter["workers"],
            "held_out": adapter["held_out"],
            "base_exact_match": adapter["base_exact_match"],
            "adapter_exact_match": adapter["adapter_exact_match"],
            "model": adapter["model"],
            "base": base,
            "adapter": adapter,
        },
        agents=figures["agents"]["scores"],
        monitoring={
            key: monitoring[key] for key in ("drifted_features", "alerts", "report", "features")
        },
        plots=plots,
        urls=urls,
    )
