"""Step list and final table of the demo on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sunloom.workflows.demo.summary import DemoSummary


class StepList:
    """Prints each step as it starts, and its result as it ends; keeps the seconds.

    Args:
        titles: Step name to the sentence shown, in order.
        console: Where to print; standard error by default, so that ``--json`` stays clean.
    """

    def __init__(self, titles: Mapping[str, str], console: Console | None = None) -> None:
        self.seconds: dict[str, float] = {}
        # Rich would colour every number of a sentence.
        self.console = console or Console(stderr=True, highlight=False)
        self._titles = dict(titles)
        self._note = ""

    def announce(self, notice: str) -> None:
        """Print what will happen before it does."""
        self.console.print(notice)
        for number, title in enumerate(self._titles.values(), 1):
            self.console.print(f"  {number}. {title}", style="dim")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run one step and note its seconds, also when it fails."""
        number = list(self._titles).index(name) + 1
        mark = f"[{number}/{len(self._titles)}]"
        self.console.print(Text(f"{mark} {self._titles[name]} …", style="bold"))
        start, self._note = time.monotonic(), ""
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - start, 2)
        # As Text: Rich would read brackets in a string as markup.
        self.console.print(Text(f"      {self.seconds[name]:6.1f} s  {self._note}"))

    def note(self, text: str) -> None:
        """Set the running step's result, shown when it ends."""
        self._note = text


def summary_table(summary: DemoSummary) -> Table:
    """The final table: one row a room."""
    table = Table(title="What came of it", title_justify="left", show_lines=False)
    table.add_column("room", style="bold")
    table.add_column("figures", overflow="fold")
    table.add_column("seconds", justify="right")
    for room, text, seconds in _rows(summary):
        table.add_row(room, text, f"{seconds:.0f}")
    return table


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
