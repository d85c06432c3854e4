from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi import OpenGate, call, record

from sunloom.config import Settings
from sunloom.config.request_limits import LlmLimits
from sunloom.config.serving import LlmServing
from sunloom.core.database import open_database
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.errors import NotFoundError, RequestError, UsageError
from sunloom.serving.apps.llm.completions import (
    CompletionsMiddleware,
    ServedEngine,
    build_probe_request,
)
from sunloom.serving.apps.llm.model_resolver import (
    BaseLanguageModel,
    ModelResolver,
    ResolvedModel,
    build_resolver,
    find_base,
    find_bases,
    required_models,
)
from sunloom.serving.apps.llm.token_meter import count_sequence
from sunloom.serving.asgi import read_body
from sunloom.serving.auth.api_keys import Allowance, KeyRecord, create_key
from sunloom.serving.auth.middleware import GatewayMiddleware, KeyAdmission
from sunloom.serving.auth.rate_limits import Spent
from sunloom.serving.metrics.request_metrics import RequestMetrics

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = [{"role": "user", "content": "a"}]


def folder(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    (path / "adapter_model.safetensors").write_text(name)
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


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"use_dora": True}, r"DoRA \(lora\.use_dora\)"),
        ({"modules_to_save": ["lm_head"]}, r"modules of its own \(lm_head\)"),
    ],
)
def test_an_adapter_that_vllm_cannot_add_is_refused_with_the_way(
    own: dict[str, Any],
    said: str,
    settings: Settings,
    resolver: ModelResolver,
    registry: ModelRegistry,
    tmp_path: Path,
) -> None:
    path = folder(tmp_path, "own")
    (path / "adapter_config.json").write_text(json.dumps(own))
    lineage = {"base": resolver.base.ref}
    registry.register("own", "adapter", path, lineage=lineage)
    registry.promote("own", 1)
    with pytest.raises(UsageError, match=f"own@1 has {said}, which vLLM cannot add") as caught:
        resolve(resolver, "own")
    assert caught.value.param == "model"
    assert "sunloom llm merge own@1" in str(caught.value.hint)
    guard, loaded, _ = layered(Engine(), resolver)
    body = {"model": "own", "messages": MESSAGES}
    answer = asyncio.run(call(guard, "POST", CHAT, json=body))
    assert (answer.status_code, loaded) == (400, [])
    assert "sunloom llm merge own@1" in answer.text
    # Nor does its alias keep the gateway from being ready.
    assert required_models(settings, resolver) == ["retail-agent"]


def test_pickled_weights_are_refused(
    settings: Settings, resolver: ModelResolver, registry: ModelRegistry, tmp_path: Path
) -> None:
    path = folder(tmp_path, "own")
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    registry.register("own", "adapter", path, lineage={"base": resolver.base.ref})
    registry.promote("own", 1)
    with pytest.raises(UsageError, match=r"only adapter_model\.bin, which can run code"):
        resolve(resolver, "own")
    assert required_models(settings, resolver) == ["retail-agent"]


def test_promoted_adapters_are_required(settings: Settings, resolver: ModelResolver) -> None:
    assert required_models(settings, resolver) == ["retail-agent"]
    cards = resolver.cards()
    assert [(card["id"], card["root"]) for card in cards] == [
        ("tool-base", "tool-base@1"),
        ("retail-agent", "retail-agent@1"),
    ]


class Sequence:
    """One sequence of the engine, as vLLM keeps it."""

    def __init__(self, prompt_tokens: int, tokens: int = 0) -> None:
        self.prompt_len = prompt_tokens
        self.tokens = tokens
        self.detokenizer = self

    def num_output_tokens(self) -> int:
        return self.tokens


class Engine:
    """What vLLM's app would do: remembers the request, generates ``n`` answers of two tokens."""

    def __init__(self, *events: bytes) -> None:
        self.events = events
        self.requests: list[dict[str, Any]] = []

    @property
    def request(self) -> dict[str, Any]:
        return self.requests[-1] if self.requests else {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        assert int(dict(scope["headers"])[b"content-length"]) == len(body)
        self.requests.append(json.loads(body))
        for index in range(self.request.get("n", 1)):
            count_sequence(Sequence(5, 2), index)
        await self.answer(receive, send)

    async def answer(self, receive: Any, send: Any) -> None:
        parts = self.events or (b"{}",)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for index, part in enumerate(parts):
            more = index + 1 < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})


class HeldEngine(Engine):
    """Answers nobody until a test lets it: requests that must meet do so, however slow each is."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def answer(self, receive: Any, send: Any) -> None:
        await self.may_answer.wait()
        await super().answer(receive, send)


class EndlessEngine(Engine):
    """Generates a token every millisecond until the client leaves, in a task of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.sequence = Sequence(5)
        self.has_ended = asyncio.Event()

    async def answer(self, receive: Any, send: Any) -> None:
        count_sequence(self.sequence, 0)
        handler = asyncio.create_task(self.generate())

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        # As vLLM's with_cancellation does: a cancelled wait cancels neither of the two.
        listener = asyncio.create_task(listen())
        await asyncio.wait({handler, listener}, return_when=asyncio.FIRST_COMPLETED)
        handler.cancel()

    async def generate(self) -> None:
        try:
            while True:
                await asyncio.sleep(0.001)
                self.sequence.tokens += 1
        finally:
            self.has_ended.set()


class Quota:
    """Counts tokens as the gateway's admission does, with a quota that a test sets."""

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens = tokens
        self.spent: list[Spent] = []

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        assert key.id == "key_1"
        self.spent.append(spent)

    def remaining_tokens(self, key: KeyRecord) -> int | None:
        used = sum(spent.total_tokens for spent in self.spent)
        return None if self.tokens is None else max(0, self.tokens - used)


Layered = tuple[GatewayMiddleware, list[str], Quota]


def layered(
    engine: Engine,
    resolver: ModelResolver,
    *,
    quota: int | None = None,
    tenant: str = "acme",
    **limits: int,
) -> Layered:
    loaded: list[str] = []
    counts = Quota(quota)

    async def load(target: ResolvedModel) -> None:
        loaded.append(target.engine_name)

    config = LlmServing(max_model_len=200, limits=LlmLimits(**limits))
    served = ServedEngine(app=engine, resolver=resolver, load=load, max_model_len=200)
    layer = CompletionsMiddleware([served], counts, config)
    gate = OpenGate("llm")
    gate.key = record("llm", tenant=tenant)
    return GatewayMiddleware(layer, gate, "llm"), loaded, counts


def test_each_request_goes_to_the_engine_that_knows_its_model(
    settings: Settings, registry: ModelRegistry, tmp_path: Path
) -> None:
    path = folder(tmp_path, "second")
    (path / "config.json").write_text("{}")
    registry.register("second-base", "llm", path)
    adapter = folder(tmp_path, "second-adapter")
    registry.register("helper", "adapter", adapter, lineage={"base": "second-base@1"})
    (tmp_path / "embedder").mkdir()
    further = [
        {"model": "second-base", "max_model_len": 32, "adapters": ["helper"]},
        {"model": str(tmp_path / "embedder"), "name": "texts", "task": "pooling"},
    ]
    llm = LlmServing.model_validate({"models": further})
    serving = settings.serving.model_copy(update={"llm": llm})
    settings = settings.model_copy(update={"serving": serving})
    bases = find_bases(settings)
    assert [(base.name, base.ref) for base in bases] == [
        ("tool-base", "tool-base@1"), ("second-base", "second-base@1"), ("texts", "embedder"),
    ]  # fmt: skip
    resolvers = [build_resolver(settings, base) for base in bases]
    required = [required_models(settings, resolver) for resolver in resolvers]
    assert required == [["retail-agent"], ["helper"], ["texts"]]
    engines, loaded = [Engine(), Engine(), Engine()], []

    async def load(target: ResolvedModel) -> None:
        loaded.append(target.engine_name)

    def document(path: str) -> dict[str, Any]:
        return {"openapi": "3.1.0", "paths": {path: {}}, "components": {"schemas": {path: {}}}}

    routes = [frozenset({CHAT, COMPLETIONS})] * 2 + [frozenset({EMBEDDINGS})]
    served = [
        ServedEngine(
            app=engine,
            resolver=resolver,
            load=load,
            max_model_len=200 if number == 0 else 32,
            describe=partial(document, EMBEDDINGS if number == 2 else CHAT),
            offered=routes[number],
        )
        for number, (engine, resolver) in enumerate(zip(engines, resolvers, strict=True))
    ]
    quota = Quota()
    gate = OpenGate("llm")
    gate.key = record("llm", tenant="acme")
    guard = GatewayMiddleware(CompletionsMiddleware(served, quota, llm), gate, "llm")

    async def ask() -> dict[str, httpx.Response]:
        asked = {
            "first": (CHAT, {"model": "retail-agent@2", "messages": MESSAGES}),
            "second": (COMPLETIONS, {"model": "helper", "prompt": "a"}),
            "texts": (EMBEDDINGS, {"model": "texts", "input": ["a", "b"]}),
            "wrong": (CHAT, {"model": "texts", "messages": MESSAGES}),
            "other": (EMBEDDINGS, {"model": "tool-base", "input": "a"}),
            "none": (CHAT, {"model": "nobody", "messages": MESSAGES}),
            "long": (COMPLETIONS, {"model": "second-base", "prompt": "a" * 3000}),
        }
        got = {n: await call(guard, "POST", path, json=body) for n, (path, body) in asked.items()}
        got["models"] = await call(guard, "GET", "/v1/models")
        got["card"] = await call(guard, "GET", "/v1/models/helper")
        got["document"] = await call(guard, "GET", "/v1/openapi.json")
        return got

    got = asyncio.run(ask())
    assert {name: answer.status_code for name, answer in got.items()} == {
        "first": 200, "second": 200, "texts": 200, "wrong": 400, "other": 400, "none": 404,
        "long": 400, "models": 200, "card": 200, "document": 200,
    }  # fmt: skip
    asked = [[request["model"] for request in engine.requests] for engine in engines]
    assert asked == [["retail-agent@2"], ["helper@1"], ["texts"]]
    assert loaded == ["retail-agent@2", "helper@1", "texts"]
    assert [(s.model, s.total_tokens) for s in quota.spent] == [
        ("retail-agent@2", 7), ("helper@1", 7), ("texts", 7),
    ]  # fmt: skip
    assert "'texts' does not offer /v1/chat/completions" in got["wrong"].text
    assert "'tool-base' does not offer /v1/embeddings" in got["other"].text
    assert "second-base, " in got["none"].json()["error"]["hint"]
    names = ["tool-base", "retail-agent", "second-base", "helper", "texts"]
    assert [card["id"] for card in got["models"].json()["data"]] == names
    assert got["card"].json()["parent"] == "second-base"
    assert set(got["document"].json()["paths"]) == {CHAT, EMBEDDINGS}
    assert set(got["document"].json()["components"]["schemas"]) == {CHAT, EMBEDDINGS}
    twice = [{"model": "second-base"}, {"model": "second-base"}]
    serving = settings.serving.model_copy(
        update={"llm": LlmServing.model_validate({"models": twice})}
    )
    with pytest.raises(UsageError, match="Two models are called 'second-base'"):
        find_bases(settings.model_copy(update={"serving": serving}))
    with pytest.raises(ValueError, match="takes no serving"):
        LlmServing.model_validate({"models": twice, "accelerator": "H100"})


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
        chat = await call(app, "POST", CHAT, json={"model": "hidden", "messages": MESSAGES})
        return [card["id"] for card in listed], one.status_code, chat

    names, status, chat = asyncio.run(ask(own))
    assert (names, status, chat.status_code) == (["tool-base", "hidden", "retail-agent"], 200, 200)
    names, status, chat = asyncio.run(ask(guard))
    assert (names, status, chat.status_code) == (["tool-base", "retail-agent"], 404, 404)
    assert "hidden" not in chat.json()["error"]["hint"]
    assert loaded == ["hidden@1"]
    # An adapter of a tenant that cannot be loaded would keep everybody's gateway from starting.
    assert required_models(settings, resolver) == ["retail-agent"]


def test_the_body_gets_the_engines_name(resolver: ModelResolver) -> None:
    engine = Engine()
    guard, loaded, quota = layered(engine, resolver)
    body = {"model": "retail-agent", "messages": MESSAGES}
    answer = asyncio.run(call(guard, "POST", CHAT, json=body))
    assert answer.status_code == 200
    assert len(engine.request.pop("cache_salt")) == 64
    assert engine.request == {"model": "retail-agent@1", "messages": MESSAGES}
    assert loaded == ["retail-agent@1"]
    assert quota.spent == [
        Spent(model="retail-agent@1", prompt_tokens=5, completion_tokens=2, total_tokens=7)
    ]


def test_answers_are_counted_with_their_prompt_once(resolver: ModelResolver) -> None:
    engine = Engine(b'data: {"choices":[{"text":"a"}]}\n\n', b"data: [DONE]\n\n")
    guard, _, quota = layered(engine, resolver)
    body = {"model": "tool-base", "messages": MESSAGES, "stream": True, "n": 3}
    answer = asyncio.run(call(guard, "POST", CHAT, json=body))
    assert answer.content == b"".join(engine.events)
    # The client did not ask for a usage event, and nothing else depends on one.
    assert "stream_options" not in engine.request
    assert [(spent.prompt_tokens, spent.completion_tokens) for spent in quota.spent] == [(5, 6)]


async def leave(guard: GatewayMiddleware, engine: EndlessEngine, *, is_cancelled: bool) -> None:
    """Ask for a completion, and leave while it is generated."""
    body = json.dumps({"model": "tool-base", "prompt": "a"}).encode()
    has_left = asyncio.Event()
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"sent to a client that has left: {message}")

    scope = {
        "type": "http",
        "method": "POST",
        "path": COMPLETIONS,
        "headers": [(b"authorization", b"Bearer good")],
    }
    request = asyncio.create_task(guard(scope, receive, send))
    while not engine.sequence.tokens:
        await asyncio.sleep(0.001)
    if is_cancelled:
        # What Serve does, without telling the app.
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    else:
        has_left.set()
        await request
    await asyncio.wait_for(engine.has_ended.wait(), 0.5)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_engine_stops_when_the_client_leaves(
    resolver: ModelResolver, is_cancelled: bool
) -> None:
    engine = EndlessEngine()
    guard, _, quota = layered(engine, resolver)
    asyncio.run(leave(guard, engine, is_cancelled=is_cancelled))
    [spent] = quota.spent
    assert spent.prompt_tokens == 10
    assert 3 <= spent.completion_tokens <= engine.sequence.tokens + 2


def test_a_reservation_holds_the_quota_of_many_at_once(resolver: ModelResolver) -> None:
    engine = HeldEngine()
    guard, _, quota = layered(engine, resolver, quota=40)
    body = {"model": "tool-base", "prompt": "a", "max_tokens": 20}

    async def send_all() -> list[int]:
        tasks = [asyncio.create_task(call(guard, "POST", COMPLETIONS, json=body)) for _ in range(5)]
        for refused in islice(asyncio.as_completed(tasks), 4):
            await refused
        engine.may_answer.set()
        return sorted([(await task).status_code for task in tasks])

    # Each may use 3 + 20 of the 40.
    assert asyncio.run(send_all()) == [200, 429, 429, 429, 429]
    assert quota.remaining_tokens(record()) == 33
    # When it has ended, what it did not use is free again.
    assert asyncio.run(call(guard, "POST", COMPLETIONS, json=body)).status_code == 200


def test_the_gateways_own_admission_counts_what_the_engine_generates(
    settings: Settings, resolver: ModelResolver
) -> None:
    secret, _ = create_key(settings, ["llm"], "acme", allowance=Allowance(100, token_quota=30))
    engine = HeldEngine()

    async def load(target: ResolvedModel) -> None:
        assert target.engine_name == "tool-base"

    async def send_all() -> list[tuple[int, str, str | None]]:
        admission = KeyAdmission(settings, RequestMetrics(open_database(settings), "llm"))
        config = LlmServing(max_model_len=200, limits=LlmLimits(max_sequences=10))
        served = ServedEngine(
            app=engine, resolver=resolver, load=load, max_model_len=config.max_model_len
        )
        layer = CompletionsMiddleware([served], admission, config)
        guard = GatewayMiddleware(layer, admission, "llm")
        body = {"model": "tool-base", "prompt": "a", "max_tokens": 20}
        requests = [call(guard, "POST", COMPLETIONS, secret, json=body) for _ in "12"]
        two = [asyncio.create_task(request) for request in requests]
        await asyncio.wait(two, return_when=asyncio.FIRST_COMPLETED)
        engine.may_answer.set()
        answers = [await task for task in two]
        body |= {"n": 10}
        answers += [await call(guard, "POST", COMPLETIONS, secret, json=body) for _ in "12"]
        return [
            (answer.status_code, answer.json().get("error", {}).get("code", ""),
             answer.headers.get("retry-after"))
            for answer in answers
        ]  # fmt: skip

    first, second, third, fourth = asyncio.run(send_all())
    assert sorted([first, second])[1] == (429, "rate_limited", "5")
    # 7 tokens used: 23 are left for 3 + 10 * 2, and after these none.
    assert (third[0], engine.request["max_tokens"]) == (200, 2)
    assert fourth == (429, "insufficient_quota", None)
    assert len(engine.requests) == 2


def test_the_last_answer_ends_where_the_quota_does(resolver: ModelResolver) -> None:
    engine = Engine()
    guard, _, quota = layered(engine, resolver, quota=33)
    body = {"model": "tool-base", "prompt": "a", "max_tokens": 100, "n": 3}
    assert asyncio.run(call(guard, "POST", COMPLETIONS, json=body)).status_code == 200
    # 3 for the prompt, and 10 for each of the answers.
    assert engine.request["max_tokens"] == 10
    quota.tokens = 11 + 5
    refused = asyncio.run(call(guard, "POST", COMPLETIONS, json=body))
    assert refused.status_code == 429
    assert "5 tokens left of its quota" in refused.json()["error"]["message"]
    assert len(engine.requests) == 1


def test_requests_of_a_key_wait_for_each_other(resolver: ModelResolver) -> None:
    engine = EndlessEngine()
    guard, _, quota = layered(engine, resolver, max_sequences=2, max_waiting=2)
    body = {"model": "tool-base", "prompt": "a"}

    async def send_all() -> list[int]:
        tasks = [asyncio.create_task(call(guard, "POST", COMPLETIONS, json=body)) for _ in range(5)]
        [refused], _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        statuses = [refused.result().status_code, len(engine.requests)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return statuses

    # Two run, two wait, and one is too many.
    assert asyncio.run(send_all()) == [429, 2]
    assert sum(spent.prompt_tokens > 0 for spent in quota.spent) == 2


def test_bodies_of_a_tenant_that_wait_are_bounded(resolver: ModelResolver) -> None:
    engine = EndlessEngine()
    guard, _, _ = layered(engine, resolver, max_sequences=1, max_kept_bytes=4096)
    body = {"model": "tool-base", "prompt": "a", "user": "b" * 1500}

    async def send_all() -> tuple[httpx.Response, httpx.Response]:
        tasks = [asyncio.create_task(call(guard, "POST", COMPLETIONS, json=body)) for _ in range(3)]
        [refused], _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        engine.has_ended.clear()
        layer: Any = guard._app
        layer._engines = (replace(layer._engines[0], app=Engine()),)
        return refused.result(), await call(guard, "POST", COMPLETIONS, json=body)

    refused, later = asyncio.run(send_all())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert "would have more than 4096" in refused.json()["error"]["message"]
    assert later.status_code == 200


def test_the_cache_is_salted_by_tenant(resolver: ModelResolver) -> None:
    engine = Engine()
    guard, _, _ = layered(engine, resolver)

    def salt(**more: Any) -> str:
        body = {"model": "tool-base", "messages": MESSAGES, **more}
        assert asyncio.run(call(guard, "POST", CHAT, json=body)).status_code == 200
        return str(engine.request["cache_salt"])

    own = salt()
    assert salt() == own
    assert salt(cache_salt="b") not in (own, "b")
    guard._admission.key = record("llm", tenant="other")  # type: ignore[attr-defined]
    assert salt() != own
    assert salt(cache_salt=own) != own


def test_tools_are_left_out_where_none_may_be_called(resolver: ModelResolver) -> None:
    engine = Engine()
    guard, _, _ = layered(engine, resolver)
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"model": "tool-base", "messages": MESSAGES, "tools": tools}
    asyncio.run(call(guard, "POST", CHAT, json={**body, "tool_choice": "none"}))
    assert {"tools", "tool_choice"}.isdisjoint(engine.request)
    asyncio.run(call(guard, "POST", CHAT, json={**body, "tool_choice": "auto"}))
    assert engine.request["tools"] == tools


def test_a_developer_speaks_as_the_system(resolver: ModelResolver) -> None:
    engine = Engine()
    guard, _, _ = layered(engine, resolver)
    messages = [{"role": "developer", "content": "b"}, *MESSAGES]
    body = {"model": "tool-base", "messages": messages}
    asyncio.run(call(guard, "POST", CHAT, json=body))
    assert [message["role"] for message in engine.request["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        (CHAT, b"{", 400),
        (CHAT, b"[1]", 400),
        (CHAT, b"{}", 400),
        (CHAT, b'{"model": 3}', 400),
        (CHAT, b'{"model": "nope", "messages": [{"role": "user", "content": "a"}]}', 404),
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


@pytest.mark.parametrize("method", ["DELETE", "PUT", "POST", "PATCH"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/retail-agent"])
def test_models_are_only_read(resolver: ModelResolver, method: str, path: str) -> None:
    guard, _, _ = layered(Engine(), resolver)
    answer = asyncio.run(call(guard, method, path))
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


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
