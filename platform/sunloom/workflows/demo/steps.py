"""Steps of the demo: what each one calls, its figures for the summary, and the gateway's client."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from sunloom.agents.api import TaskEvent, run_tasks
from sunloom.agents.tools.gateway import visible_features
from sunloom.config import Settings
from sunloom.config.agents import AgentSpec, EngineName
from sunloom.core.alerts import list_alerts
from sunloom.core.interrupts import raise_if_interrupted
from sunloom.core.plugins import load_plugin
from sunloom.core.telemetry import progress_bar
from sunloom.errors import ServingError
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
    from sunloom.data.datasets import prepare_dataset

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


def register_base_model(recipes: DemoRecipes) -> Figures:
    """Register the base model that an installed package brings, its files checked by hash."""
    from sunloom.core.model_registry import open_registry
    from sunloom.llm.base_models import register_packaged

    result = register_packaged(recipes.model.base, open_registry(recipes.adapter))
    source = f"shipped in {result.version.lineage['package']}"
    checked = "registered before" if result.reused else "hash checked"
    parameters = f"{result.metrics['parameters']:,} parameters"
    return Figures(result.metrics, f"{result.version.ref} {source}, {checked}, {parameters}")


def train_base_model(recipes: DemoRecipes) -> Figures:
    """Build the small base model, or take the one that the same recipe built before."""
    from sunloom.llm.trainer import train_base

    result = train_base(recipes.base_model)
    made = "taken from the cache" if result.reused else "trained"
    note = f"{result.version.ref} {made}, {result.metrics['parameters']:,} parameters"
    return Figures(result.metrics, note, _pictures(result.artifacts))


def train_adapter_model(recipes: DemoRecipes) -> Figures:
    """Fine-tune the LoRA adapter and judge base and adapter on the held-out questions."""
    from sunloom.llm.trainer import train_adapter

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
    # Questions in wordings, and about customers, that no training saw.
    source = load_plugin("sunloom.conversations", recipes.adapter.data.conversations)()
    tasks: list[Any] = list(source.tasks(TASKS_PER_ENGINE, settings.seed))
    model, feature_set = recipes.tabular.output.name, recipes.tabular.rows.feature_set
    spec = recipes.agents.spec().model_copy(update={"model": recipes.adapter.output.name})
    # Before the agents run, through the same routes as their tools.
    truths = [gateway.truth(task.customer_id, model, feature_set) for task in tasks]
    # The agent's model sees features under the recipe's names, and so do the questions.
    truths = [truth | visible_features(spec, truth) for truth in truths]
    # At once: an agent's process spends most of the time on its framework's imports.
    pool = ThreadPoolExecutor(len(ENGINES))
    try:
        with progress_bar("agents' tasks", len(ENGINES) * len(tasks)) as bar:
            futures = {
                engine: pool.submit(
                    score_engine,
                    gateway,
                    engine,
                    spec=spec,
                    tasks=tasks,
                    truths=truths,
                    on_done=bar.advance,
                )
                for engine in ENGINES
            }
            wait_for(futures.values())
            scores = {engine: future.result() for engine, future in futures.items()}
    finally:
        # After an interrupt the streams of events end with the gateway.
        pool.shutdown(wait=False, cancel_futures=True)
    note = ", ".join(f"{name} {score.right} of {score.tasks}" for name, score in scores.items())
    figures = {
        name: {"tasks": score.tasks, "right": score.right, "seconds": score.seconds}
        for name, score in scores.items()
    }
    answers = {name: [asdict(a) for a in score.answers] for name, score in scores.items()}
    return Figures({"scores": figures, "answers": answers}, note + " right")


def wait_for(futures: Iterable[Future[Any]]) -> None:
    """Wait for all, or for an interrupt."""
    # In short waits: Ray's threads may take a signal, and do not wake this one.
    while wait(futures, timeout=0.5).not_done:
        raise_if_interrupted()


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


def _pictures(artifacts: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(path) for path in artifacts.values() if Path(str(path)).suffix == ".png")


@dataclass(frozen=True)
class TaskVerdict:
    """An agent's answer to one task, and whether it is right.

    Attributes:
        question: The task.
        answer: Empty where the task failed.
        right: Whether it agrees with the store and the model.
        status: Of the task.
        error: Of a failed task.
        events: Number of events by type.
    """

    question: str
    answer: str
    right: bool
    status: str
    error: dict[str, Any] | None
    events: dict[str, int]


@dataclass(frozen=True)
class EngineScore:
    """Right answers of one engine.

    Attributes:
        tasks: Tasks given.
        right: Tasks whose answer agrees with the store and the model.
        seconds: For all of them.
        answers: Verdict on each.
    """

    tasks: int
    right: int
    seconds: float
    answers: list[TaskVerdict]


class DemoGateway:
    """The routes that the demo reads, with a key.

    Args:
        url: Root of the gateway.
        key: A key with the scopes llm, features, agents and models.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )

    def truth(self, customer_id: int, model: str, feature_set: str) -> dict[str, Any]:
        """Features and prediction of a customer as the store and the model give them now."""
        path = f"/features/{feature_set}"
        features = self._call("GET", path, params={"entity_id": customer_id})["features"]
        body = {"entity_ids": [customer_id]}
        [prediction] = self._call("POST", f"/predict/{model}", json=body)["predictions"]
        return dict(features) | {"prediction": prediction["prediction"]}

    def refuses(self, key: str) -> bool:
        """Whether the gateway answers 401 to a key."""
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.get(f"{self.url}/v1/models", headers=headers, timeout=30).status_code == 401

    def streamed_answer(self, model: str, question: str) -> str:
        """One streamed answer through the official ``openai`` client."""
        from openai import OpenAI

        # Without retries, which would hide that the first request failed.
        client = OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            # Enough for a first piece: only that a stream arrives is checked.
            max_tokens=64,
            stream=True,
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        response = self._http.request(method, path, **options)
        if response.status_code >= 400:
            raise ServingError(
                f"{response.request.url} answered {response.status_code}: {response.text}"
            )
        return response.json()


def score_engine(
    gateway: DemoGateway,
    engine: EngineName,
    *,
    spec: AgentSpec,
    tasks: Sequence[Any],
    truths: Sequence[dict[str, Any]],
    on_done: Callable[[], None],
) -> EngineScore:
    """Give an agent the tasks and count the right answers.

    Args:
        gateway: Where the agent runs.
        engine: ``crewai`` or ``semantic_kernel``.
        spec: The agent.
        tasks: With ``question`` and ``is_right(answer, truth)``.
        truths: Features and prediction of each task's customer.
        on_done: Called as each task ends.
    """

    def on_event(_task_id: str, event: TaskEvent) -> None:
        if event.type in ("succeeded", "failed", "cancelled"):
            on_done()

    start = time.monotonic()
    questions = [task.question for task in tasks]
    results = run_tasks(gateway.url, gateway.key, engine, questions, spec=spec, on_event=on_event)
    answers = [
        TaskVerdict(
            question=task.question,
            answer=result.answer or "",
            right=bool(result.status == "succeeded" and task.is_right(result.answer or "", truth)),
            status=result.status,
            error=result.error,
            events=dict(Counter(event.type for event in result.events)),
        )
        for task, result, truth in zip(tasks, results, truths, strict=True)
    ]
    right = sum(answer.right for answer in answers)
    return EngineScore(
        tasks=len(tasks),
        right=right,
        seconds=round(time.monotonic() - start, 2),
        answers=answers,
    )
