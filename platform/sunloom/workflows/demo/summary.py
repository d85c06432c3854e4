"""Summary of the demo: ``outputs/demo/summary.json``, the final table, and the picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sunloom.core.files import write_atomic


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


def write_summary(summary: DemoSummary, folder: Path, answers: Any) -> Path:
    """Write ``summary.json``, and the agents' answers to ``answers.json``; gives the first's path.

    Args:
        summary: The figures.
        folder: Where both files go.
        answers: Of every task, by engine.
    """
    path = folder / "summary.json"
    write_atomic(path, json.dumps(asdict(summary), indent=2, default=str))
    # In a file of their own: the summary keeps the scores and stays short.
    write_atomic(folder / "answers.json", json.dumps(answers, indent=2))
    return path


def print_summary(summary: DemoSummary, path: Path, console: Console) -> None:
    """Print what stands at the end: one row a room, and where figures and pictures are.

    Args:
        summary: The figures.
        path: Of ``summary.json``.
        console: The terminal.
    """
    table = Table(title="What came of it", title_justify="left", show_lines=False)
    table.add_column("room", style="bold")
    table.add_column("figures", overflow="fold")
    table.add_column("seconds", justify="right")
    for room, text, seconds in _rows(summary):
        table.add_row(room, text, f"{seconds:.0f}")
    console.print(table)
    console.print(f"Figures: {path}", soft_wrap=True)
    for plot in summary.plots:
        console.print(f"Picture: {plot}", soft_wrap=True)
    console.print(f"Drift report: {summary.monitoring['report']}", soft_wrap=True)


def _rows(summary: DemoSummary) -> Iterator[tuple[str, str, float]]:
    seconds = summary.seconds
    data, features = summary.data, summary.features
    reasons = ", ".join(f"{count} {reason}" for reason, count in data["quarantined"].items())
    yield (
        "data",
        f"{data['rows_in']:,} rows in, {data['rows_out']:,} out ({reasons})",
        seconds["data"],
    )
    yield (
        "features",
        f"{features['training_rows']:,} training rows, {features['online_entities']:,} entities "
        f"online, Polars = Ray Data: {features['engines_equal']}",
        seconds["features"],
    )
    tabular = summary.tabular
    yield (
        "tabular",
        f"{tabular['winner']}: AUC {tabular['auc']:.4f}, log loss {tabular['log_loss']:.4f} "
        f"(base rate {tabular['base_rate']:.1%})",
        seconds["tabular"],
    )
    llm = summary.llm
    yield (
        "llm",
        f"{llm['model']} on {llm['base_parameters']:,} parameters, {llm['workers']} workers: exact "
        f"tool calls {llm['base_exact_match']:.1%} before, {llm['adapter_exact_match']:.1%} after "
        f"({llm['held_out']} held-out questions)",
        seconds["base_model"] + seconds["adapter"],
    )
    for engine, result in summary.agents.items():
        text = f"{result['right']} of {result['tasks']} tasks right through the gateway"
        yield engine, text, result["seconds"]
    monitoring = summary.monitoring
    yield (
        "monitoring",
        f"{monitoring['drifted_features']} features drifted, {monitoring['alerts']} alerts",
        seconds["monitoring"],
    )
    yield "total", "", seconds["total"]


def plot_before_after(summary: DemoSummary, path: Path) -> Path:
    """Draw exact tool calls before and after, and the agents' right answers, as PNG.

    Args:
        summary: Metrics of both models and scores of the agents.
        path: The picture.
    """
    import matplotlib as mpl

    # Before pyplot, which would look for a display.
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    llm = summary.llm
    bars = {"base": llm["base_exact_match"], "adapter": llm["adapter_exact_match"]}
    bars |= {
        name.replace("_", " "): score["right"] / score["tasks"]
        for name, score in summary.agents.items()
    }
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    colours = ["#b0b7c3", "#e07a1f", *["#2f6f8f"] * len(summary.agents)]
    drawn = axes.bar(list(bars), list(bars.values()), color=colours)
    axes.bar_label(drawn, labels=[f"{value:.0%}" for value in bars.values()], padding=3)
    # Above 100 % there is room for the labels of full bars.
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("share right")
    axes.set_title(f"Exact tool calls on {llm['held_out']} held-out questions; agents' tasks")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
