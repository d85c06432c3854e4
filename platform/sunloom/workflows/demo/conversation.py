"""The demo's client of the gateway: over HTTP with a key, like any other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from sunloom.agents.agents_client import TaskResult, run_tasks
from sunloom.agents.api_schemas import TaskEvent
from sunloom.config.agents import AgentSpec, EngineName
from sunloom.errors import ServingError


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
        _verdict(task, result, truth)
        for task, result, truth in zip(tasks, results, truths, strict=True)
    ]
    right = sum(answer.right for answer in answers)
    return EngineScore(
        tasks=len(tasks),
        right=right,
        seconds=round(time.monotonic() - start, 2),
        answers=answers,
    )


def _verdict(task: Any, result: TaskResult, truth: dict[str, Any]) -> TaskVerdict:
    answer = result.answer or ""
    return TaskVerdict(
        question=task.question,
        answer=answer,
        right=bool(result.status == "succeeded" and task.is_right(answer, truth)),
        status=result.status,
        error=result.error,
        events=dict(Counter(event.type for event in result.events)),
    )
