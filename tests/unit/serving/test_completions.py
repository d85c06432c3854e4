from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi import OpenGate, call, record

from sunloom.config import Settings
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.errors import NotFoundError, RequestError
from sunloom.serving.apps.llm.completions import (
    CompletionsMiddleware,
    build_probe_request,
    check_request,
)
from sunloom.serving.apps.llm.model_resolver import (
    BaseLanguageModel,
    ModelResolver,
    ResolvedModel,
    build_resolver,
    find_base,
    required_models,
)
from sunloom.serving.asgi import read_body
from sunloom.serving.auth.middleware import GatewayMiddleware
from sunloom.serving.auth.rate_limits import Spent

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CHAT = "/v1/chat/completions"


def folder(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    (path / "weights").write_text(name)
    return path


@pytest.fixture
def registry(settings: Settings, tmp_path: Path) -> ModelRegistry:
    registry = open_registry(settings)
    base = registry.register("tool-base", "llm", folder(tmp_path, "base"))
    for number in (1, 2):
        path = folder(tmp_path, f"a{number}")
        registry.register("retail-agent", "adapter", path, lineage={"base": base.ref})
    path = folder(tmp_path, "other")
    registry.register("stranger", "adapter", path, lineage={"base": "tool-base@7"})
    registry.promote("retail-agent", 1)
    return registry


@pytest.fixture
def resolver(settings: Settings, registry: ModelRegistry) -> ModelResolver:
    base = find_base(settings)
    assert base is not None
    assert base.ref == "tool-base@1"
    return ModelResolver(registry, base, cache_s=0.0)


def resolve(resolver: ModelResolver, name: str) -> str:
    return asyncio.run(resolver.resolve(name)).engine_name


def test_names_follow_the_registry(resolver: ModelResolver, registry: ModelRegistry) -> None:
    assert resolve(resolver, "tool-base") == "tool-base"
    assert resolve(resolver, "tool-base@1") == "tool-base"
    assert resolve(resolver, "retail-agent") == "retail-agent@1"
    assert resolve(resolver, "retail-agent@2") == "retail-agent@2"
    registry.promote("retail-agent", 2)
    assert resolve(resolver, "retail-agent") == "retail-agent@2"
    assert resolve(resolver, "retail-agent@production") == "retail-agent@2"


def test_unknown_names_list_the_known(resolver: ModelResolver) -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'retail-agent'") as caught:
        resolve(resolver, "retail-agnet")
    assert caught.value.param == "model"
    with pytest.raises(NotFoundError, match="no version 9") as caught:
        resolve(resolver, "retail-agent@9")
    assert caught.value.param == "model"
    with pytest.raises(NotFoundError):
        resolve(resolver, "stranger")  # trained on another base


def test_resolved_names_are_cached(settings: Settings, registry: ModelRegistry) -> None:
    base = BaseLanguageModel("tool-base", "x", "tool-base@1")
    trusting = ModelResolver(registry, base, cache_s=60.0)
    assert resolve(trusting, "retail-agent") == "retail-agent@1"
    registry.promote("retail-agent", 2)
    assert resolve(trusting, "retail-agent") == "retail-agent@1"
    assert resolve(build_resolver(settings, base), "retail-agent") == "retail-agent@2"


def test_promoted_adapters_are_required(settings: Settings, resolver: ModelResolver) -> None:
    assert required_models(settings, resolver) == ["retail-agent"]
    cards = resolver.cards()
    assert [(card["id"], card["root"]) for card in cards] == [
        ("tool-base", "tool-base@1"),
        ("retail-agent", "retail-agent@1"),
    ]


def test_a_tenants_adapter_is_unknown_to_others(
    settings: Settings, resolver: ModelResolver, registry: ModelRegistry, tmp_path: Path
) -> None:
    lineage = {"base": "tool-base@1"}
    registry.register("hidden", "adapter", folder(tmp_path, "h"), lineage=lineage, tenant="umbra")
    registry.promote("hidden", 1)
    engine = Engine()
    guard, loaded, _ = layered(engine, resolver)
    gate = OpenGate("llm")
    gate.key = record("llm", tenant="umbra")
    own = GatewayMiddleware(guard._app, gate, "llm")

    async def ask(app: Any) -> tuple[list[str], int, httpx.Response]:
        listed = (await call(app, "GET", "/v1/models")).json()["data"]
        one = await call(app, "GET", "/v1/models/hidden")
        chat = await call(app, "POST", CHAT, json={"model": "hidden", "messages": []})
        return [card["id"] for card in listed], one.status_code, chat

    names, status, chat = asyncio.run(ask(own))
    assert (names, status, chat.status_code) == (["tool-base", "hidden", "retail-agent"], 200, 200)
    names, status, chat = asyncio.run(ask(guard))
    assert (names, status, chat.status_code) == (["tool-base", "retail-agent"], 404, 404)
    assert "hidden" not in chat.json()["error"]["hint"]
    assert loaded == ["hidden@1"]
    # An adapter of a tenant that cannot be loaded would keep everybody's gateway from starting.
    assert required_models(settings, resolver) == ["retail-agent"]


@pytest.mark.parametrize(
    "request_",
    [
        {"prompt_logprobs": 0},
        {"echo": True, "logprobs": 0},
        {"echo": True, "logprobs": True},
        {"echo": True, "top_logprobs": 2},
    ],
)
def test_prompt_log_probabilities_are_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        check_request({"model": "a", **request_})


@pytest.mark.parametrize(
    "request_", [{}, {"logprobs": True}, {"echo": True}, {"prompt_logprobs": None}]
)
def test_other_requests_pass(request_: dict[str, Any]) -> None:
    check_request({"model": "a", **request_})


class Engine:
    """What vLLM's app would do: remembers the request, answers with a count."""

    def __init__(self, *events: bytes) -> None:
        self.events = events
        self.request: dict[str, Any] = {}
        self.length = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        self.length = int(dict(scope["headers"])[b"content-length"])
        assert self.length == len(body)
        self.request = json.loads(body)
        parts = self.events or (json.dumps({"usage": USAGE}).encode(),)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for index, part in enumerate(parts):
            more = index + 1 < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})


def layered(
    engine: Engine, resolver: ModelResolver
) -> tuple[GatewayMiddleware, list[str], list[Spent]]:
    loaded: list[str] = []
    spent: list[Spent] = []

    async def load(target: ResolvedModel) -> None:
        loaded.append(target.engine_name)

    layer = CompletionsMiddleware(engine, resolver, load, lambda _scope, usage: spent.append(usage))
    return GatewayMiddleware(layer, OpenGate("llm"), "llm"), loaded, spent


def test_the_body_gets_the_engines_name(resolver: ModelResolver) -> None:
    engine = Engine()
    guard, loaded, spent = layered(engine, resolver)
    body = {"model": "retail-agent", "messages": []}
    answer = asyncio.run(call(guard, "POST", CHAT, json=body))
    assert answer.status_code == 200
    assert engine.request == {"model": "retail-agent@1", "messages": []}
    assert loaded == ["retail-agent@1"]
    assert spent == [
        Spent(model="retail-agent@1", prompt_tokens=5, completion_tokens=2, total_tokens=7)
    ]


@pytest.mark.parametrize("is_requested", [False, True])
def test_streamed_tokens_are_counted(resolver: ModelResolver, is_requested: bool) -> None:
    usage = b'data: {"choices":[],"usage":{"total_tokens":9}}\n\n'
    engine = Engine(b'data: {"choices":[{"text":"a"}]}\n\n', usage + b"data: [DONE]\n\n")
    guard, _, spent = layered(engine, resolver)
    options = {"stream_options": {"include_usage": True}} if is_requested else {}
    body = {"model": "tool-base", "stream": True, **options}
    answer = asyncio.run(call(guard, "POST", CHAT, json=body))
    assert [(usage.model, usage.total_tokens) for usage in spent] == [("tool-base", 9)]
    assert engine.request["stream_options"] == {"include_usage": True}
    assert (usage.strip() in answer.content) is is_requested
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.text.startswith('data: {"choices":[{"text":"a"}]}\n\n')


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        (CHAT, b"{", 400),
        (CHAT, b"[1]", 400),
        (CHAT, b"{}", 400),
        (CHAT, b'{"model": 3}', 400),
        (CHAT, b'{"model": "nope"}', 404),
        ("/v1/load_lora_adapter", b'{"model": "tool-base"}', 404),
        ("/v1/score", b'{"model": "tool-base"}', 404),
    ],
)
def test_bad_requests_never_reach_the_engine(
    resolver: ModelResolver, path: str, content: bytes, status: int
) -> None:
    engine = Engine()
    guard, _, _ = layered(engine, resolver)
    answer = asyncio.run(call(guard, "POST", path, content=content))
    assert answer.status_code == status
    assert engine.request == {}


def test_one_model_can_be_looked_up(resolver: ModelResolver) -> None:
    guard, _, _ = layered(Engine(), resolver)
    found = asyncio.run(call(guard, "GET", "/v1/models/retail-agent")).json()
    assert (found["id"], found["root"], found["parent"]) == (
        "retail-agent",
        "retail-agent@1",
        "tool-base",
    )
    assert asyncio.run(call(guard, "GET", "/v1/models/nope")).status_code == 404


def test_a_pooling_model_is_probed_on_the_route_that_it_offers() -> None:
    path, body = build_probe_request("m", ["/v1/chat/completions", "/v1/completions"])
    assert (path, body["model"]) == ("/v1/completions", "m")
    pooling = build_probe_request("m", ["/v1/models", "/v1/embeddings"])
    assert pooling == ("/v1/embeddings", {"model": "m", "input": "a"})
    with pytest.raises(RequestError, match="offers no route for 'm'"):
        build_probe_request("m", ["/v1/models"])
