"""Steps of the demo: what each one calls, and the figures that it adds to the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sunloom.agents.tools.gateway import visible_features
from sunloom.config import Settings
from sunloom.config.agents import EngineName
from sunloom.core.alerts.delivery import list_alerts
from sunloom.core.model_registry import open_registry
from sunloom.core.plugins import load_plugin
from sunloom.core.telemetry import progress_bar
from sunloom.errors import ServingError
from sunloom.workflows.demo.conversation import DemoGateway, EngineScore, score_engine
from sunloom.workflows.demo.recipes import DemoRecipes

ENGINES: tuple[EngineName, ...] = ("crewai", "semantic_kernel")
TASKS_PER_ENGINE = 10


@dataclass(frozen=True)
class Figures:
    """A step's part of the summary.

    Attributes:
        figures: What goes under the step's key.
        note: One line for the step list.
        plots: Pictures that the step made.
    """

    figures: dict[str, Any]
    note: str
    plots: tuple[str, ...] = ()


def prepare_data(recipes: DemoRecipes) -> Figures:
    """Clean the purchase log and quarantine what is wrong with it."""
    # Each step imports its room as it runs, so the step list appears without waiting for all.
    from sunloom.data.pipeline import prepare_dataset

    summary = prepare_dataset(recipes.data)
    counts = f"{summary.rows_in:,} rows in, {summary.rows_out:,} out"
    return Figures(asdict(summary), f"{counts}, {summary.bad_rows} in quarantine")


def compute_features(recipes: DemoRecipes) -> Figures:
    """Compute training rows and online values from the Chalk definitions, on both engines."""
    from sunloom.feature_store.materialization.materialize import materialize

    result = materialize(recipes.features)
    note = f"{result.training_rows:,} training rows, {result.online_entities:,} entities online"
    return Figures(result.model_dump(exclude_unset=True), note)


def train_tabular_model(recipes: DemoRecipes) -> Figures:
    """Search, judge at the later cut-off, register and promote."""
    from sunloom.tabular.trainer import train_tabular

    result = train_tabular(recipes.tabular)
    figures = result.metrics
    note = f"{figures['winner']} won, AUC {figures['auc']:.4f}"
    if result.failures:
        note += f"; not promoted: {'; '.join(result.failures)}"
    return Figures(figures, note, (result.files["calibration_plot"],))


def train_base_model(recipes: DemoRecipes) -> Figures:
    """Build the small base model, or take the one that the same recipe built before."""
    from sunloom.llm.base_run import train_base

    result = train_base(recipes.base_model)
    made = "taken from the cache" if result.reused else "trained"
    note = f"{result.version.ref} {made}, {result.metrics['parameters']:,} parameters"
    return Figures(result.metrics, note, _pictures(result.artifacts))


def train_adapter_model(recipes: DemoRecipes) -> Figures:
    """Fine-tune the LoRA adapter and judge base and adapter on the held-out questions."""
    from sunloom.llm.adapter_run import train_adapter

    result = train_adapter(recipes.adapter)
    figures = result.metrics
    made = "taken from the cache" if result.reused else "trained"
    note = (
        f"{result.version.ref} {made}: exact calls {figures['base_exact_match']:.1%} before, "
        f"{figures['adapter_exact_match']:.1%} after"
    )
    return Figures(figures | {"model": result.version.ref}, note, _pictures(result.artifacts))


def ask_agents(recipes: DemoRecipes, settings: Settings, gateway: DemoGateway) -> Figures:
    """Give both engines the same held-out tasks through the gateway."""
    tasks = held_out_tasks(recipes, settings)
    model, feature_set = recipes.tabular.output.name, recipes.tabular.rows.feature_set
    spec = recipes.agents.spec()
    # Before the agents run, through the same routes as their tools.
    truths = [gateway.truth(task.customer_id, model, feature_set) for task in tasks]
    # The agent's model sees features under the recipe's names, and so do the questions.
    truths = [truth | visible_features(spec, truth) for truth in truths]
    scores: dict[str, EngineScore] = {}
    with progress_bar("agents' tasks", len(ENGINES) * len(tasks)) as bar:
        for engine in ENGINES:
            scores[engine] = score_engine(
                gateway, engine, spec=spec, tasks=tasks, truths=truths, on_done=bar.advance
            )
    note = ", ".join(f"{name} {score.right} of {score.tasks}" for name, score in scores.items())
    figures = {
        name: {"tasks": score.tasks, "right": score.right, "seconds": score.seconds}
        for name, score in scores.items()
    }
    answers = {name: [asdict(a) for a in score.answers] for name, score in scores.items()}
    return Figures({"scores": figures, "answers": answers}, note + " right")


def held_out_tasks(recipes: DemoRecipes, settings: Settings) -> Sequence[Any]:
    """Questions in wordings, and about customers, that no training saw."""
    source = load_plugin("sunloom.conversations", recipes.adapter.data.conversations)()
    return list(source.tasks(TASKS_PER_ENGINE, settings.seed))


def watch_drift(recipes: DemoRecipes, settings: Settings) -> Figures:
    """Compare the first quarter with the last one and raise the alert."""
    from sunloom.monitoring.drift_job import run_drift

    result = run_drift(recipes.monitoring)
    raised = [alert.message for alert in list_alerts(settings, "open")]
    # Alerts of earlier runs may be open too: none is shown unless this run raised one.
    return Figures(result.to_dict(), raised[0] if result.alerts and raised else "no alert")


def check_gateway(gateway: DemoGateway, recipes: DemoRecipes) -> None:
    """Check that a wrong key is refused and that a stream arrives.

    Raises:
        ServingError: A wrong key is let in, or the stream is empty.
    """
    if not gateway.refuses("sl-not-a-key"):
        raise ServingError("The gateway let a wrong key in.")
    question = "Should customer 12 get a voucher?"
    if not gateway.streamed_answer(recipes.adapter.output.name, question).strip():
        raise ServingError("The adapter's stream was empty.")


def require_adapter(settings: Settings, name: str) -> None:
    """Fail before serving starts where the registry has no such adapter.

    Raises:
        NotFoundError: No such model.
    """
    open_registry(settings).get(name)


def _pictures(artifacts: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(path) for path in artifacts.values() if Path(str(path)).suffix == ".png")
