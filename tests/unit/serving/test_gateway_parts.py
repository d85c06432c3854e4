from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi import OpenGate, call

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.core.model_registry import open_registry
from sunloom.serving.apps.gateway.app import build_gateway_app
from sunloom.serving.apps.gateway.openapi_docs import merge_documents, render_page
from sunloom.serving.apps.gateway.training_views import progress_of_log
from sunloom.serving.asgi import ASGIApp
from sunloom.serving.auth.middleware import GatewayMiddleware
from sunloom.serving.deploy.fast_path import FastPath
from sunloom.serving.metrics.request_metrics import RequestMetrics, render_metrics


@pytest.fixture
def app(settings: Settings) -> ASGIApp:
    return GatewayMiddleware(build_gateway_app(settings), OpenGate("admin"), "gateway")


def document(schema: str, path: str, kind: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    operation = {
        "summary": "<b>Does</b>",
        "responses": {
            "200": {"content": {"application/json": {"schema": reference}}},
            "422": {"description": "FastAPI's"},
        },
    }
    return {
        "paths": {path: {"get": operation}},
        "components": {"schemas": {schema: {"type": kind}, "Unused": {"type": "null"}}},
    }


def test_documents_are_merged_without_hiding_each_other() -> None:
    parts = {
        "llm": document("Item", "/v1/a", "string"),
        "tabular": document("Item", "/b", "number"),
    }
    merged = merge_documents(parts)
    schemas = merged["components"]["schemas"]
    assert schemas["LlmItem"] == {"type": "string"}
    assert schemas["TabularItem"] == {"type": "number"}
    assert set(schemas) == {"LlmItem", "TabularItem", "Problem"}
    assert list(merged["paths"]) == ["/b", "/v1/a"]
    responses = merged["paths"]["/b"]["get"]["responses"]
    assert set(responses) == {"200", "default"}
    assert "&lt;b&gt;Does" in render_page(merged["paths"])


def test_progress_is_read_from_the_folder_that_the_log_names(tmp_path: Path) -> None:
    rows = [
        {"step": step, "steps": 40, "loss": 2.0 / step, "seconds": step * 0.5,
         "tokens_per_second": 100.0, "figures": {"rewards/margins": 0.5}}
        for step in range(1, 11)
    ]  # fmt: skip
    text = "\n".join(json.dumps(row) for row in rows) + '\n{"step": 11, "lo'
    folder = tmp_path / "llm-1"
    folder.mkdir()
    (folder / "progress.jsonl").write_text(text)
    found = progress_of_log(f"12:00 INFO run llm-1 writes to {folder}\nmore\n")
    assert (found["run_id"], found["step"], found["steps"]) == ("llm-1", 10, 40)
    assert found["eta_s"] == 15.0
    assert found["loss_history"][0] == {"step": 1, "loss": 2.0}
    assert len(found["loss_history"]) == 10
    assert found["figures"] == {"rewards/margins": 0.5}
    assert progress_of_log("nothing yet")["loss_history"] == []


def test_metrics_add_up_over_replicas(settings: Settings) -> None:
    database = open_database(settings)
    first, second = RequestMetrics(database, "llm"), RequestMetrics(database, "llm")
    first.observe("/v1", "POST", 200, 0.003)
    first.observe("/v1", "POST", 200, 40.0)
    first.flush()
    first.observe("/v1", "POST", 200, 0.003)
    first.flush()
    second.observe("/v1", "POST", 200, 0.2)
    second.flush()
    text = render_metrics(database)
    labels = 'service="llm",route="/v1",method="POST",status="200"'
    assert f"sunloom_http_request_seconds_count{{{labels}}} 4" in text
    assert f'sunloom_http_request_seconds_bucket{{{labels},le="0.005"}} 2' in text
    assert f'sunloom_http_request_seconds_bucket{{{labels},le="30.0"}} 3' in text
    assert f'sunloom_http_request_seconds_bucket{{{labels},le="+Inf"}} 4' in text
    assert "40.206000" in text


def test_unknown_routes_name_the_known(app: ASGIApp) -> None:
    answer = asyncio.run(call(app, "GET", "/modles"))
    assert answer.status_code == 404
    assert "'/models'" in answer.json()["error"]["hint"]
    without_model = asyncio.run(call(app, "POST", "/v1/chat/completions", json={}))
    assert "No language model" in without_model.json()["error"]["message"]
    assert asyncio.run(call(app, "PUT", "/llm/train")).status_code == 405


def test_a_misspelt_field_of_generate_is_refused_with_the_nearest(app: ASGIApp) -> None:
    body = {"prompt": "a", "model": "retail-agent"}
    answer = asyncio.run(call(app, "POST", "/llm/generate", json=body))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "model")
    assert error["hint"].startswith("Did you mean 'model_name'? Known: max_tokens, model_name,")


def test_a_key_is_created_once_per_idempotency_key(app: ASGIApp) -> None:
    async def walk() -> list[httpx.Response]:
        body = {"scopes": ["llm"], "tenant": "acme"}
        headers = {"Idempotency-Key": "k"}
        made = [await call(app, "POST", "/keys", json=body, headers=dict(headers)) for _ in "12"]
        wrong = await call(app, "POST", "/keys", json={"scopes": ["all"]})
        listed = await call(app, "GET", "/keys")
        return [*made, wrong, listed]

    first, again, wrong, listed = asyncio.run(walk())
    assert first.status_code == 201
    assert first.json()["key"].startswith("sl-")
    assert again.json() == first.json() | {"key": None}
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "scopes")
    assert [key["id"] for key in listed.json()["keys"]] == [first.json()["id"]]


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ({"expires_at": "1d"}, "Did you mean 'expires'?"),
        ({"expiry": "1d"}, "Did you mean 'expires'?"),
        ({"rpm": 5}, "Known: expires, purpose, requests_per_minute, scopes, tenant, token_quota"),
        ({"quota": 5}, "token_quota"),
    ],
)
def test_an_unknown_field_of_a_key_is_refused(app: ASGIApp, field: Any, hint: str) -> None:
    body = {"scopes": ["llm"]} | field
    error = asyncio.run(call(app, "POST", "/keys", json=body)).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", next(iter(field)))
    assert hint in error["hint"]


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ({"tenant": ""}, 422),
        ({"tenant": "  "}, 422),
        ({"tenant": "a\0"}, 400),
        ({"tenant": "a\nb"}, 422),
        ({"purpose": "a\x1bb"}, 422),
        ({"requests_per_minute": 10**12}, 422),
        ({"requests_per_minute": 10**30}, 400),
        ({"requests_per_minute": True}, 422),
        ({"token_quota": 2**31}, 422),
        ({"expires": "99999999999w"}, 400),
        ({"expires": "9" * 400 + "w"}, 422),
        ({"expires": "101000d"}, 400),
    ],
)
def test_a_key_beyond_its_bounds_is_refused(app: ASGIApp, field: Any, status: int) -> None:
    answer = asyncio.run(call(app, "POST", "/keys", json={"scopes": ["llm"]} | field))
    assert answer.status_code == status
    assert asyncio.run(call(app, "GET", "/keys")).json() == {"keys": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/models/a/aliases/b", {"version": 10**12}, 422),
        ("POST", "/models/a/aliases/b", {"version": True}, 422),
        ("POST", "/models/a/aliases/b", {"version": 1, "force": True}, 422),
        ("POST", f"/models/a/aliases/{'b' * 61}", {"version": 1}, 422),
        ("GET", "/models/a@99999999999999999999999", None, 404),
        ("GET", "/models/a@%C2%B2", None, 404),
    ],
)
def test_a_version_is_a_number_that_there_may_be(
    app: ASGIApp, settings: Settings, tmp_path: Path, method: str, path: str, body: Any, status: int
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").write_text("x")
    open_registry(settings).register("a", "adapter", tmp_path / "made")
    assert asyncio.run(call(app, method, path, json=body)).status_code == status


def test_a_version_shows_no_path_of_the_machine(
    app: ASGIApp, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").write_text("x")
    lineage = {"base": "b@1", "sources": [f"{tmp_path}/rows.parquet"]}
    open_registry(settings).register("a", "adapter", tmp_path / "made", lineage=lineage)
    listed = asyncio.run(call(app, "GET", "/models"))
    [model] = listed.json()["models"]
    assert model["lineage"] == {"base": "b@1", "sources": ["…/rows.parquet"]}
    assert re.fullmatch("a/[0-9a-f]{12}", model["uri"])
    shown = asyncio.run(call(app, "GET", "/models/a"))
    assert shown.json()["uri"] == model["uri"]
    assert str(tmp_path) not in listed.text + shown.text


def test_heads_and_slashes_are_one_rule_for_all_routes(app: ASGIApp) -> None:
    for path in ("/healthz", "/models", "/metrics", "/docs", "/monitoring/alerts"):
        head = asyncio.run(call(app, "HEAD", path))
        assert (head.status_code, head.content) == (200, b"")
        assert asyncio.run(call(app, "GET", f"{path}/")).status_code == 200
    created = asyncio.run(call(app, "POST", "/keys/", json={"scopes": ["llm"]}))
    assert created.status_code == 201


@pytest.mark.parametrize(
    ("path", "headers", "passes"),
    [
        ("/-/healthz", {}, True),
        ("/healthz", {}, True),
        ("/-/routes", {}, False),
        ("/-/routes", {"Authorization": "Bearer x"}, False),
        ("/v1/models", {}, False),
        ("/v1/models", {"Authorization": ""}, False),
        ("/v1/models", {"Authorization": "Bearer x"}, True),
    ],
)
def test_the_fast_path_rejects_requests_without_a_key(
    path: str, headers: dict[str, str], passes: bool
) -> None:
    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answer = asyncio.run(call(FastPath(inside), "GET", path, None, headers=headers))
    assert answer.status_code == (204 if passes else 401)
