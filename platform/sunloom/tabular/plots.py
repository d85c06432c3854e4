"""Plots of a tabular model, as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plot_calibration(path: Path, algorithms: Mapping[str, Mapping[str, Any]], winner: str) -> Path:
    """Predicted against observed rate, one line an algorithm, above the rows of each bin.

    Args:
        path: PNG to write.
        algorithms: Metrics by algorithm, as the registry keeps them.
        winner: The algorithm drawn in front.

    Returns:
        ``path``.
    """
    # The object interface with Agg has no global state, so it also works in a server's thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    _draw_lines(upper, algorithms, winner)
    _draw_counts(lower, algorithms[winner]["reliability"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _draw_lines(axes: Any, algorithms: Mapping[str, Mapping[str, Any]], winner: str) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    axes.axhline(algorithms[winner]["base_rate"], color="grey", linewidth=0.8, label="base rate")
    for name, figures in algorithms.items():
        predicted = [cell["mean_probability"] for cell in figures["reliability"]]
        observed = [cell["observed_rate"] for cell in figures["reliability"]]
        front = name == winner
        label = f"{name}: AUC {figures['auc']:.3f}, log loss {figures['log_loss']:.3f}"
        axes.plot(
            predicted,
            observed,
            marker="o",
            label=label,
            linewidth=2.2 if front else 1.0,
            zorder=2 + front,
        )
    axes.set(ylabel="observed rate", title="Calibration at the later cut-off", ylim=(0, 1))
    axes.legend(loc="upper left", fontsize=8)


def _draw_counts(axes: Any, reliability: Any) -> None:
    left = [cell["low"] for cell in reliability]
    width = [cell["high"] - cell["low"] for cell in reliability]
    axes.bar(left, [cell["count"] for cell in reliability], width, align="edge", alpha=0.6)
    # On a log axis: bins of few rows would not be seen beside full ones.
    axes.set(xlabel="predicted probability", ylabel="rows", xlim=(0, 1), yscale="log")
