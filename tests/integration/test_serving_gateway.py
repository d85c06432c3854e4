"""The gateway as clients see it: real Ray Serve, HAProxy and vLLM."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
from gateway_fixture import RunningGateway

from sunloom.core.model_registry import open_registry
from sunloom.serving.auth.api_keys import Allowance, create_key, list_keys, revoke_key

pytestmark = pytest.mark.integration

HELLO: Any = [{"role": "user", "content": "hello"}]
BODY = {"type", "code", "message", "hint", "param", "request_id"}


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)


def answer(client: openai.OpenAI, model: str) -> tuple[str, str]:
    made = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=8, temperature=0, extra_body={"ignore_eos": True}
    )
    return made.model, made.choices[0].message.content or ""


def test_models_are_listed_by_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tool-base", "retail-agent", "too-wide"]
    assert client.models.retrieve("retail-agent").id == "retail-agent"


def test_base_and_adapters_answer_differently(client: openai.OpenAI) -> None:
    base = answer(client, "tool-base")
    first, second = answer(client, "retail-agent@1"), answer(client, "retail-agent@2")
    assert base[0] == "tool-base"
    assert (first[0], second[0]) == ("retail-agent@1", "retail-agent@2")
    assert len({base[1], first[1], second[1]}) == 3
    assert answer(client, "retail-agent@1") == first


def test_streams_arrive_in_pieces_and_without_uncalled_usage(client: openai.OpenAI) -> None:
    options: Any = {"messages": HELLO, "max_tokens": 40, "temperature": 0, "stream": True}
    chunks = list(
        client.chat.completions.create(
            model="retail-agent", extra_body={"ignore_eos": True}, **options
        )
    )
    assert len(chunks) > 10
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    with_usage = list(
        client.chat.completions.create(
            model="retail-agent", stream_options={"include_usage": True}, **options
        )
    )
    assert with_usage[-1].usage is not None
    assert with_usage[-1].usage.total_tokens > 0


def test_promotion_answers_without_a_restart(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    before = answer(client, "retail-agent")
    assert before[0] == "retail-agent@1"
    promoted = gateway.call("POST", "/models/retail-agent/aliases/production", json={"version": 2})
    assert promoted.json()["version"] == 2
    try:
        time.sleep(1.2)
        assert answer(client, "retail-agent") == answer(client, "retail-agent@2")
    finally:
        open_registry(gateway.settings).promote("retail-agent", 1)
    time.sleep(1.2)
    assert answer(client, "retail-agent") == before


def test_unknown_models_are_404_with_the_known(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        answer(client, "retail-agnet")
    error: Any = caught.value.body
    assert set(error) == BODY
    assert "Did you mean 'retail-agent'" in error["hint"]
    assert error["param"] == "model"
    assert error["request_id"] == caught.value.request_id


def test_an_adapter_that_cannot_be_loaded_is_named(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    body = {"model": "too-wide", "messages": HELLO}
    refused = gateway.call("POST", "/v1/chat/completions", json=body)
    assert refused.status_code == 500
    assert "too-wide@1" in refused.json()["error"]["message"]
    assert "max_lora_rank" in refused.json()["error"]["hint"]
    assert answer(client, "tool-base")[1]


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "prompt_logprobs": 1}),
        ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 0}),
        ("/v1/completions", {"prompt": "a", "prompt_logprobs": 0}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 100_000}),
        ("/v1/completions", {"prompt": "a " * 2000}),
    ],
)
def test_what_would_end_the_engine_is_refused(
    gateway: RunningGateway, client: openai.OpenAI, path: str, extra: dict[str, Any]
) -> None:
    refused = gateway.call("POST", path, json={"model": "retail-agent", **extra})
    assert refused.status_code == 400
    assert set(refused.json()["error"]) == BODY
    assert answer(client, "retail-agent")[1]


def test_wrong_expired_and_narrow_keys(gateway: RunningGateway) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="wrong", max_retries=0).models.list()
    narrow, record = create_key(gateway.settings, ["features"])
    assert gateway.call("GET", "/v1/models", narrow).status_code == 403
    assert gateway.call("GET", "/features", narrow).status_code == 200
    revoke_key(gateway.settings, record.id)
    time.sleep(0.7)
    assert gateway.call("GET", "/features", narrow).status_code == 401


def test_limits_count_over_all_apps(gateway: RunningGateway) -> None:
    key, _ = create_key(gateway.settings, ["features", "models"], allowance=Allowance(6))
    if time.time() % 60 > 52:
        time.sleep(8)
    codes = [gateway.call("GET", "/features", key).status_code for _ in range(4)]
    time.sleep(2.5)
    codes += [gateway.call("GET", "/models", key).status_code for _ in range(4)]
    assert codes == [200] * 6 + [429] * 2


def test_tokens_are_counted_against_the_quota(gateway: RunningGateway) -> None:
    key, _ = create_key(gateway.settings, ["llm"], allowance=Allowance(6000, token_quota=30))
    body = {"model": "tool-base", "prompt": "a", "max_tokens": 40, "ignore_eos": True}
    assert gateway.call("POST", "/v1/completions", key, json=body).status_code == 200
    over = gateway.call("POST", "/v1/completions", key, json=body)
    assert over.status_code == 429
    assert "quota of 30" in over.json()["error"]["message"]


def test_features_in_order_with_nulls(gateway: RunningGateway) -> None:
    one = gateway.call("GET", "/features/customer?entity_id=1")
    assert one.json()["features"] == {"recency_days": 5.0, "total_amount": 10.5}
    body = {"feature_set": "customer", "entity_ids": [99, 3, 1], "features": ["recency_days"]}
    results = gateway.call("POST", "/features/batch", json=body).json()["results"]
    assert [(r["entity_id"], r["found"], r["features"]["recency_days"]) for r in results] == [
        (99, False, None),
        (3, True, None),
        (1, True, 5.0),
    ]
    unknown = gateway.call("GET", "/features/custmer?entity_id=1")
    assert unknown.status_code == 404
    assert "customer" in unknown.json()["error"]["hint"]


def predicted(gateway: RunningGateway, body: dict[str, Any]) -> list[tuple[Any, Any]]:
    made = gateway.call("POST", "/predict/repurchase", json=body)
    assert made.status_code == 200, made.text
    return [(one["entity_id"], one["prediction"]) for one in made.json()["predictions"]]


def test_predictions_read_the_store_and_follow_the_alias(gateway: RunningGateway) -> None:
    entities = {"entity_ids": [1, 99, 2]}
    first = [(1, "lapse"), (99, None), (2, "return")]
    assert predicted(gateway, entities) == first
    assert predicted(gateway, {"rows": [{"recency_days": 199.0}]}) == [(None, "return")]
    registry = open_registry(gateway.settings)
    registry.promote("repurchase", 2)
    try:
        time.sleep(1.2)
        assert predicted(gateway, entities) == [(1, "return"), (99, None), (2, "lapse")]
    finally:
        registry.promote("repurchase", 1)
    missing = gateway.call("POST", "/predict/repurchas", json=entities)
    assert missing.status_code == 404
    assert "repurchase" in missing.json()["error"]["hint"]


def test_generate_answers_one_prompt(gateway: RunningGateway) -> None:
    body = {"prompt": "hello", "model_name": "retail-agent", "max_tokens": 8}
    made = gateway.call("POST", "/llm/generate", json=body).json()
    assert made["model"] == "retail-agent@1"
    assert made["usage"]["completion_tokens"] <= 8
    unknown = gateway.call("POST", "/llm/generate", json={"prompt": "a", "model_name": "b"})
    assert unknown.status_code == 404
    assert set(unknown.json()["error"]) == BODY


def test_training_refuses_what_belongs_to_the_operator(gateway: RunningGateway) -> None:
    body = {"recipe": "retail_agent", "overrides": {"paths.state": "/elsewhere"}}
    refused = gateway.call("POST", "/llm/train", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "paths.state")
    outside = gateway.call("POST", "/llm/train", json={"recipe": "../../etc/passwd"})
    assert (outside.status_code, outside.json()["error"]["param"]) == (404, "recipe")
    assert gateway.call("GET", "/llm/training").json() == {"jobs": []}
    assert gateway.call("GET", "/llm/training/none").status_code == 404


def test_a_training_is_its_tenants(gateway: RunningGateway) -> None:
    mine, theirs = (create_key(gateway.settings, ["train"], name)[0] for name in ("one", "two"))
    body = {"recipe": "retail_agent", "overrides": {"output.name": "mine", "training.max_steps": 2}}
    accepted = gateway.call("POST", "/llm/train", mine, json=body)
    assert accepted.status_code == 202, accepted.text
    url = accepted.json()["status_url"]
    shown = [gateway.call("GET", "/llm/training", key).json()["jobs"] for key in (mine, theirs)]
    assert [len(jobs) for jobs in shown] == [1, 0]
    routes = [("GET", url), ("GET", f"{url}/logs"), ("POST", f"{url}/stop")]
    assert [gateway.call(*route, theirs).status_code for route in routes] == [404] * 3
    assert gateway.call("POST", f"{url}/stop", mine).json()["stopping"] is True


def test_keys_over_http(gateway: RunningGateway) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"scopes": ["llm"], "expires": "1h"}
    made = gateway.call("POST", "/keys", json=body, headers=headers).json()
    again = gateway.call("POST", "/keys", json=body, headers=headers).json()
    assert again["id"] == made["id"]
    assert gateway.call("GET", "/v1/models", made["key"]).status_code == 200
    assert gateway.call("DELETE", f"/keys/{made['id']}").json()["revoked_at"]
    assert made["id"] in {key.id for key in list_keys(gateway.settings)}


def test_monitoring_routes_answer(gateway: RunningGateway) -> None:
    assert gateway.call("GET", "/monitoring/drift").json() == {"reports": []}
    quality = gateway.call("GET", "/monitoring/quality").json()
    assert quality == {"datasets": [], "checks": [], "features": [], "skew": []}
    assert gateway.call("GET", "/monitoring/alerts").json() == {"alerts": []}
    models = gateway.call("GET", "/monitoring/performance").json()["models"]
    assert {"repurchase@2", "tool-base@1"} <= {model["model"] for model in models}


def test_one_document_over_all_apps(gateway: RunningGateway) -> None:
    document = gateway.call("GET", "/openapi.json").json()
    wanted = {
        "/v1/chat/completions",
        "/features/batch",
        "/predict/{model}",
        "/agents/create",
        "/models/{name}/aliases/{alias}",
        "/llm/train",
        "/healthz",
    }
    assert wanted <= set(document["paths"])
    references = set(_references(document))
    assert references <= {
        f"#/components/schemas/{name}" for name in document["components"]["schemas"]
    }
    page = gateway.call("GET", "/docs")
    assert page.status_code == 200
    assert "/v1/chat/completions" in page.text


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [one for value in node.values() for one in _references(value)]
    if isinstance(node, list):
        return [one for value in node for one in _references(value)]
    return []


def test_metrics_cover_all_apps(gateway: RunningGateway) -> None:
    gateway.call("GET", "/features")
    gateway.call("GET", "/v1/models")
    time.sleep(2.5)
    text = gateway.call("GET", "/metrics").text
    for service in ("gateway", "llm", "features", "tabular"):
        assert f'service="{service}"' in text
    assert "sunloom_http_request_seconds_bucket" in text


def test_readiness_and_health(gateway: RunningGateway) -> None:
    assert gateway.call("GET", "/healthz", None).json() == {"status": "ok"}
    ready = gateway.call("GET", "/readyz", None).json()
    assert ready["ready"] is True
    assert set(ready["parts"]) == {"llm", "features", "tabular", "agents", "retail-agent"}
    assert json.dumps(ready).count("ok") == 5
