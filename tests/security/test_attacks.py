"""A hostile tenant's tricks against the real deployment; ``docs/security.md`` names the threats.

Each is tried once, with every scope that a tenant may have. What it does for ten minutes to the
others' latencies is measured by ``benchmarks.serving.hostile_tenant``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from child_processes import children_titled
from gateway_fixture import RunningGateway

from sunloom.serving.auth.api_keys import create_key

pytestmark = [pytest.mark.security, pytest.mark.integration]

SCOPES = ("llm", "features", "ingest", "agents", "train", "models")
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = {"model": "tool-base", "messages": [{"role": "user", "content": "Hello"}]}
PROMPT = {"model": "tool-base", "prompt": "a"}


def nested(levels: int) -> dict[str, Any]:
    """A JSON schema of so many objects, each within the other, as the form of an answer."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}


def train(**overrides: Any) -> dict[str, Any]:
    """A training of the recipe that the operator offers, with the caller's changes."""
    return {"recipe": "retail_agent", "overrides": {"output": {"name": "mine"}} | overrides}


FUTURE = {
    "feature_set": "customer",
    "rows": [
        {
            "id": 1,
            "event_time": "9999-01-01T00:00:00Z",
            "recency_days": 1.0,
            "total_amount": 1.0,
        }
    ],
}
ATTACKS: dict[str, tuple[str, str, Any, int]] = {
    "A-code": ("POST", "/llm/train", train(model={"trust_remote_code": True}), 400),
    "A-hub-id": ("POST", "/llm/train", train(model={"base_model": "owner/repository"}), 404),
    "A-folder": ("POST", "/llm/train", train(model={"base_model": "/etc"}), 404),
    "A-file": ("POST", "/llm/train", train(data={"train": [{"path": "/etc/passwd"}]}), 400),
    "A-path": ("POST", "/llm/train", train(training={"resume_from": "/tmp"}), 400),
    "A-workers": ("POST", "/llm/train", train(training={"workers": 10_000}), 400),
    "A-gate": ("POST", "/llm/train", train(evaluation={"min_exact_match": 0}), 400),
    "B-wide": ("POST", "/predict/repurchase", {"rows": [{f"k{i}": 0} for i in range(8000)]}, 422),
    "B-deep": ("POST", "/predict/repurchase", b'{"rows":' + b"[" * 700 + b"]" * 700 + b"}", 400),
    "C-answers": ("POST", CHAT, HELLO | {"n": 600}, 400),
    "C-prompts": ("POST", COMPLETIONS, PROMPT | {"prompt": ["a"] * 300}, 400),
    "C-schema": ("POST", CHAT, HELLO | {"response_format": nested(250)}, 400),
    "E-job": ("GET", "/llm/training/raysubmit_another/logs", None, 404),
    "E-model": ("POST", "/models/tool-base/aliases/production", {"version": 1}, 403),
    "F-stream": ("POST", CHAT, HELLO | {"stream": "false"}, 400),
    "K-body": ("POST", "/agents/create", b" " * (9 << 20), 413),
    "M-future": ("POST", "/features/ingest", FUTURE, 422),
    "N-name": ("POST", "/llm/train", train(output={"name": "../../escaped"}), 400),
    "W-time": ("GET", "/features/customer?entity_id=1&now=9999-12-31T23:59:59-23:59", None, 400),
    "W-version": ("GET", f"/models/x@{'9' * 30}", None, 404),
    "W-number": ("POST", "/predict/repurchase", b'{"ids": [' + b"9" * 100 + b"]}", 400),
    "W-surrogate": ("POST", COMPLETIONS, b'{"model": "tool-base", "prompt": "\\ud83d"}', 400),
    "method": ("DELETE", "/v1/models/tool-base", None, 405),
    "spelling": ("GET", "//v1//models", None, 404),
    "key-of-its-own": ("POST", "/keys", {"scopes": ["admin"], "tenant": "hostile"}, 403),
    "field": ("POST", "/llm/generate", {"prompt": "a", "modell": "x"}, 422),
    "role": ("POST", CHAT, HELLO | {"messages": [{"role": "human", "content": "a"}]}, 400),
}


@pytest.fixture(scope="module")
def hostile(gateway: RunningGateway) -> str:
    """The key of a tenant that is not the one whose models and features are there."""
    return create_key(gateway.settings, SCOPES, "hostile")[0]


@pytest.mark.parametrize("name", ATTACKS)
def test_a_trick_is_refused(gateway: RunningGateway, hostile: str, name: str) -> None:
    method, path, body, status = ATTACKS[name]
    content = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
    headers = {"content-type": "application/json"} if content is not None else {}
    answer = gateway.call(method, path, hostile, content=content, headers=headers)
    assert answer.status_code == status, answer.text[:500]
    assert answer.json()["error"]["message"]
    assert not [word for word in ("Traceback", "/site-packages/", "SELECT ") if word in answer.text]
    assert str(gateway.settings.paths.state.parent) not in answer.text


def test_whoever_is_refused_in_a_loop_waits_and_others_do_not(
    gateway: RunningGateway,
) -> None:
    # Of its own, as the attacks above are to be answered at once.
    key, _ = create_key(gateway.settings, ["models"], "stubborn")
    wide = ATTACKS["B-wide"][2]

    async def walk() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as client:
            # Forty cost nothing, and those that are on their way have passed.
            for _ in range(4):
                pages = (client.post("/predict/repurchase", json=wide) for _ in range(20))
                answers = await asyncio.gather(*pages)
            return answers

    answers = asyncio.run(walk())
    assert {answer.status_code for answer in answers} == {422, 429}
    late = [answer for answer in answers if answer.status_code == 429]
    assert {answer.json()["error"]["code"] for answer in late} == {"rate_limited"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in late)
    began = time.monotonic()
    assert gateway.call("GET", "/predict").status_code == 200
    assert time.monotonic() - began < 1


def test_long_bodies_leave_no_memory_behind(gateway: RunningGateway) -> None:
    (replica,) = children_titled("ServeReplica:tabular:")
    before = replica.memory_info().rss
    key, _ = create_key(gateway.settings, ["models"], "large")

    async def walk() -> set[int]:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b" " * (1 << 20)

        async def send() -> int:
            try:
                return (await client.post("/predict/x", content=pieces())).status_code
            except httpx.TransportError:
                # Answered before all of it was sent.
                return 413

        headers = {"Authorization": f"Bearer {key}", "content-type": "application/json"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as client:
            return {s for _ in range(6) for s in await asyncio.gather(*(send() for _ in range(6)))}

    assert asyncio.run(walk()) == {413}
    assert replica.memory_info().rss - before < 30e6


@pytest.mark.usefixtures("gateway")
def test_the_engine_and_feature_reads_go_ahead_of_the_other_apps() -> None:
    niceness = {
        app: {process.nice() for process in children_titled(f"ServeReplica:{app}:")}
        for app in ("llm", "features", "tabular", "agents", "gateway")
    }
    assert len(niceness["llm"]) == 1
    assert niceness["llm"] == niceness["features"]
    lower = {value + 4 for value in niceness["llm"]}
    assert {niceness[app] == lower for app in ("tabular", "agents", "gateway")} == {True}


@pytest.mark.soak
def test_others_are_served_as_before_and_the_memory_is_what_it_was(
    gateway: RunningGateway, hostile: str, soak_s: float
) -> None:
    """Bodies of which each once took gigabytes and tens of seconds, forty of them or more."""
    before = _memory_mb()
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        headers = {"Authorization": f"Bearer {hostile}", "content-type": "application/json"}
        end, rounds = time.monotonic() + soak_s, 0
        while rounds < 10 or time.monotonic() < end:
            for name in ("B-wide", "B-deep", "C-schema", "K-body"):
                method, path, body, status = ATTACKS[name]
                content = body if isinstance(body, bytes) else json.dumps(body)
                answer = client.request(method, path, content=content, headers=headers)
                assert answer.status_code == status
            rounds += 1
            row = gateway.call("GET", "/features/customer?entity_id=1").json()
            assert row["features"]["recency_days"] == 5.0
            answer = gateway.call("POST", COMPLETIONS, json=PROMPT | {"max_tokens": 1})
            assert answer.json()["usage"]["completion_tokens"] == 1
    assert _memory_mb() - before < 200


def _memory_mb() -> float:
    """Resident memory of the replicas, MB."""
    replicas = children_titled("ray::ServeReplica")
    return sum(replica.info["memory_info"].rss for replica in replicas) / 1e6
