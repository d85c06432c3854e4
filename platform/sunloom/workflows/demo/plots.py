"""The demo's own picture: tool calls before and after fine-tuning, and the agents' answers."""

from __future__ import annotations

from pathlib import Path

from sunloom.workflows.demo.summary import DemoSummary


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
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("share right")
    axes.set_title(f"Exact tool calls on {llm['held_out']} held-out questions; agents' tasks")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
