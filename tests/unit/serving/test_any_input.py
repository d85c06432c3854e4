"""Any input over real HTTP: no answer is a 5xx, or shows a path of the machine or a Python dict."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from small_gateway import small_gateway
from small_job_server import small_job_server

from sunloom.agents.store import AgentStore
from sunloom.config import load_config
from sunloom.config.settings import Settings
from sunloom.core.database import open_database
from sunloom.core.model_registry import open_registry
from sunloom.feature_store.online.registry import store_stream
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.definitions.open import plan_of
from sunloom.serving.apps.agents import build_agents_app
from sunloom.serving.apps.llm.completions import CompletionsMiddleware, ServedEngine
from sunloom.serving.apps.llm.model_resolver import ResolvedModel, build_resolver, find_base
from sunloom.serving.apps.llm.token_meter import count_sequence
from sunloom.serving.apps.tabular import KIND, build_tabular_app
from sunloom.serving.asgi import Receive, Scope, Send, read_body, send_json
from sunloom.serving.auth.middleware import KeyAdmission
from sunloom.serving.metrics.request_metrics import RequestMetrics
from sunloom.tabular.algorithms import load_algorithm
from sunloom.tabular.columns import Columns
from sunloom.tabular.model import TabularModel
from tests.unit.agents.front import NoHosts

ROOT = Path(__file__).parents[3]
CLASSES = str(ROOT / "tests" / "unit" / "features" / "stream_classes.py")
ROW = {"id": 3, "recency_days": 1.0, "name": "ann", "seen": "2026-01-01T00:00:00Z", "span": 1.0}
TRIP = {"id": 1, "rider_id": 7, "at": "2026-03-01T12:00:00Z", "fare": 2.5}
AGENT = {
    "name": "a",
    "tools": [{"name": "predict", "options": {"decimals": 2}, "approval": True}],
    "max_tokens": 5,
    "timeout_s": 5.0,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "predict",
        "description": "d",
        "parameters": {"type": "object", "properties": {"id": {"type": ["integer", "null"]}}},
    },
}
CHAT = {
    "model": "tool-base",
    "messages": [{"role": "user", "content": "hello", "name": "u"}],
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "temperature": 0.5,
    "n": 1,
    "stream": False,
    "stream_options": {"include_usage": True},
    "stop": ["a"],
    "seed": 1,
    "top_p": 0.5,
    "user": "u",
    "tools": [TOOL],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"1": 1.0},
    "cache_salt": "s",
    "structured_outputs": {},
}
# What each route takes. Left out: /readyz, whose answer is 503 without the other apps.
BODIES: dict[str, dict[str, Any]] = {
    "/features/batch": {
        "feature_set": "customer", "entity_ids": [1, 2], "features": ["name"],
        "now": "2026-01-01T00:00:00Z",
    },
    "/features/ingest": {"feature_set": "customer", "rows": [ROW | {"event_time": None}]},
    "/features/ingest#stream": {"source": "st_trip", "rows": [TRIP]},
    "/features/validate": {"feature_set": "customer", "rows": [ROW]},
    "/features/transform": {"artifact": "churn", "rows": [{"a": 1}]},
    "/predict/churn": {"rows": [{"a": 1.0, "id": 1}]},
    "/predict/churn@1": {"entity_ids": [1, "2"], "feature_set": "customer"},
    "/keys": {
        "scopes": ["llm"], "tenant": "acme", "expires": "1h", "requests_per_minute": 5,
        "token_quota": 7, "purpose": "p",
    },
    "/models/churn/aliases/best": {"version": 1},
    "/v1/chat/completions": CHAT,
    "/v1/completions": {
        "model": "tool-base@1", "prompt": "a", "max_tokens": 5, "n": 1, "best_of": 1, "echo": False,
        "stream": True, "stop": "a", "logprobs": 1, "prompt_logprobs": 1, "suffix": "b",
    },
    "/v1/embeddings": {"model": "tool-base", "input": "a", "encoding_format": "float"},
    "/llm/generate": {
        "prompt": "a", "model_name": "tool-base", "system": "s", "max_tokens": 5,
        "temperature": 0.5, "top_p": 0.5, "stop": ["a"], "seed": 1,
    },
    "/llm/train": {"recipe": "retail_agent", "overrides": {"training.max_steps": 5}},
    "/llm/train#overrides": {
        "recipe": "retail_agent",
        "overrides": {"training": [{"steps": 5}], "output.name": "own", "lora": {"r": 4}},
    },
    "/agents/create": AGENT,
    "/agents/agent_x/task": {"task": "hello"},
    "/agents/agent_x/tasks/t/approve": {"approved": True, "call": 1, "note": "n"},
}  # fmt: skip
NAMES = (
    "/features/{}?entity_id=1", "/features/customer?entity_id={}",
    "/features/st_rider?entity_id={}",
    "/features/customer?entity_id=1&features={}", "/features/customer?entity_id=1&now={}",
    "/features/st_rider?entity_id=7&now={}", "/models/{}", "/models/churn@{}", "/models?kind={}",
    "/monitoring/drift?monitor={}", "/monitoring/quality?monitor={}",
    "/monitoring/performance?monitor={}", "/monitoring/alerts?status={}", "/{}",
    "/v1/models/{}", "/llm/training/{}", "/llm/training/{}/logs",
    "/agents/{}/status", "/agents/a/status?limit={}", "/agents/a/tasks/{}",
    "/agents/a/tasks/b/events?after={}", "/predict/{}", "/keys?delegated={}", "/metrics?x={}",
)  # fmt: skip
HEADERS = (
    "X-Request-ID", "Idempotency-Key", "Last-Event-ID", "X-Request-Timeout-Seconds", "Accept",
    "Content-Type", "Accept-Encoding", "Traceparent", "Cookie", "Range", "If-None-Match", "Host",
    "X-Forwarded-For", "Origin", "Expect",
)  # fmt: skip
LEAKS = re.compile(
    r"Traceback|\[SQL|sqlalchemy|site-packages|\{'|\[\{'|<class|object at 0x|/pytest-of-|"
    + re.escape(str(ROOT))
)

texts = st.one_of(
    st.sampled_from(
        [
            "", " ", "0", "-1", "1e999", "9" * 30, "x" * 600, "a\0b", "\ud83d", "²", "../../etc",
            "NaN", "true", "null", "churn@99999999999999999999999", "2026-01-01",
            "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59", "99999999999w",
            "%00", "%2e%2e%2f", "a@b@c", "{{x}}", "'; DROP TABLE api_keys; --", "\r\nX: y",
            "/etc/passwd", "file:///etc/passwd", "-0", "1_0", "\uff11\uff12",
        ]
    ),
    st.text(max_size=12),
)  # fmt: skip
scalars = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1.5, 1e308, -1e308, 5e-324, 2**31, 2**63 - 1, -(2**63), 10**100]
    ),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


ELSEWHERE = ("/readyz",)
SENT = ("method", "url", "params", "headers", "json", "content", "data")


class Engine:
    """Answers as vLLM's app does, three tokens for whatever is asked."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = json.loads(await read_body(receive))
        count_sequence(Sequence(), 0)
        usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        message = {"role": "assistant", "content": "abc"}
        choice = {"index": 0, "message": message, "text": "abc", "finish_reason": "stop"}
        answer = {"model": request["model"], "choices": [choice], "usage": usage}
        await send_json(send, 200, answer)


class Sequence:
    """What the engine keeps of it."""

    prompt_len = 2

    @property
    def detokenizer(self) -> Any:
        return self

    def num_output_tokens(self) -> int:
        return 3


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with ExitStack() as stack:
        yield build(tmp_path_factory, stack)


def build(tmp_path_factory: pytest.TempPathFactory, stack: ExitStack) -> httpx.Client:
    folder = tmp_path_factory.mktemp("any")
    jobs = stack.enter_context(small_job_server())
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    sets += [f"cluster.job_address={jobs.url}", "cluster.address=127.0.0.1:6399"]
    sets += ["serving.training.bounds={max_running: 1000}"]
    settings = load_config(Settings, sets=sets, conf_dir=ROOT / "conf").config
    store = open_online_store(settings)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "id": [1],
            "event_time": [at],
            "recency_days": [1.5],
            "name": ["ann"],
            "seen": [at],
            "span": [at - at],
        }
    )
    store.write("customer", frame)
    store_stream(store, plan_of(CLASSES, "st_rider"), ["st_trip"])
    columns = Columns(("a",))
    matrix = columns.matrix(pl.DataFrame({"a": np.arange(40.0)}))
    target = (np.arange(40) > 20).astype(float)
    fitted = load_algorithm("logistic_regression").fit(matrix, target, {"seed": 0})
    model = TabularModel(
        "logistic_regression", {"seed": 0}, columns, fitted, ("no", "yes"), 0.5, {}
    )
    lineage = {"source": str(folder / "rows.parquet")}
    path = model.save(folder / "churn")
    open_registry(settings).register("churn", KIND, path, lineage=lineage)
    AgentStore(open_database(settings))
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    open_registry(settings).register("tool-base", "llm", folder / "base")
    base = find_base(settings)
    assert base is not None

    async def load(_: ResolvedModel) -> None:
        return None

    admission = KeyAdmission(settings, RequestMetrics(open_database(settings), "llm"))
    resolver = build_resolver(settings, base)
    config = settings.serving.llm
    served = ServedEngine(
        app=Engine(), resolver=resolver, load=load, max_model_len=config.max_model_len
    )
    others = {
        "llm": CompletionsMiddleware([served], admission, config),
        "tabular": build_tabular_app(settings),
        "agents": build_agents_app(settings, NoHosts()),
    }
    # A project of few files: a submission reads all of them.
    root = folder / "project"
    for name in ("jobs", "conf"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "platform" / "sunloom").mkdir(parents=True)
    stack.enter_context(pytest.MonkeyPatch.context()).chdir(root)
    return stack.enter_context(small_gateway(settings, others))


# One order of inputs each time: whoever breaks a rule sees it in the same run.
quick = bounds(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, (answer.request.url, answer.status_code, answer.text[:500])
    assert LEAKS.search(answer.text) is None, (answer.request.url, answer.text[:500])
    # uvicorn's own answer to bytes that are no HTTP has no body of ours.
    is_ours = answer.request.method != "HEAD" and not answer.text.startswith("Invalid HTTP")
    if answer.status_code >= 400 and is_ours:
        assert set(answer.json()["error"]) >= {"code", "message", "hint", "request_id"}
        assert len(answer.content) < 8_000


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A route and its body, with one value, a row's or the body's own, that is another."""
    route = draw(st.sampled_from(sorted(BODIES)))
    body = json.loads(json.dumps(BODIES[route]))
    place = body
    while True:
        inner = [v for v in place.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if not inner or not draw(st.booleans()):
            break
        place = inner[0][0]
    place[draw(st.sampled_from([*place, "other"]))] = draw(values)
    return route.partition("#")[0], body


@quick
@given(mutated())
@example(("/keys", {"scopes": ["llm"], "requests_per_minute": 10**30}))
@example(("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": {"a": 1}}]}))
@example(("/llm/train", {"recipe": "../env/test", "overrides": {}}))
@example(("/keys", {"scopes": ["llm"], "expires": "99999999999w"}))
@example(("/agents/create", AGENT | {"tools": [{"name": "predict", "options": {"x": {"y": 1}}}]}))
def test_any_body(gateway: httpx.Client, sent: tuple[str, dict[str, Any]]) -> None:
    route, body = sent
    check(gateway.post(route, content=json.dumps(body).encode()))


@quick
@given(st.sampled_from(NAMES), texts, st.sampled_from(["GET", "HEAD", "DELETE", "PUT", "OPTIONS"]))
@example("/models/{}", "x@99999999999999999999999", "GET")
@example("/features/customer?entity_id=1&now={}", "9999-12-31T23:59:59.999999-23:59", "GET")
@example("/features/st_rider?entity_id=7&now={}", "9999-12-31T23:59:59.999999-23:59", "GET")
@example("/models/{}", "churn", "GET")
@example("/models?kind={}", "tabular", "GET")
def test_any_name(gateway: httpx.Client, template: str, text: str, method: str) -> None:
    path = template.format(quote(text.encode("utf-8", "surrogatepass"), safe=""))
    check(gateway.request(method, path))


@quick
@given(
    st.sampled_from(["/models", "/features/customer?entity_id=1", "/healthz", "/agents", "/x"]),
    st.sampled_from(HEADERS),
    st.binary(max_size=8) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
@example("/models", "X-Request-ID", b"\xff")
@example("/agents/a/tasks/b/events", "Last-Event-ID", b"9" * 5000)
@example("/x", "Host", b"[")
@example("/keys/", "Idempotency-Key", b"\xff" * 300)
def test_any_header(gateway: httpx.Client, path: str, name: str, value: bytes) -> None:
    # Others are no header's, and the client itself would not send them.
    headers = [(name.encode(), re.sub(rb"[^\x21-\x7e\x80-\xff]", b"", value))]
    check(gateway.get(path, headers=headers))
    body = BODIES["/keys"] | {"scopes": ["nobody"]}
    check(gateway.post("/keys", json=body, headers=headers))


def test_what_the_documents_allow(gateway: httpx.Client) -> None:
    """Each operation of the OpenAPI documents, with inputs that schemathesis makes of it."""
    import schemathesis

    asked = set()
    for path in ("", "/features", "/predict", "/agents"):
        document = gateway.get(f"{path}/openapi.json").json()
        paths = {p: item for p, item in document["paths"].items() if not p.startswith(ELSEWHERE)}
        for operation in schemathesis.openapi.from_dict(
            document | {"paths": paths}
        ).get_all_operations():
            cases = operation.ok().as_strategy()

            @bounds(quick, max_examples=2)
            @given(cases)
            def ask(case: Any) -> None:
                sent = case.as_transport_kwargs(base_url=str(gateway.base_url))
                sent["headers"] = dict(sent["headers"]) | {
                    "Authorization": gateway.headers["authorization"]
                }
                check(gateway.request(**{k: v for k, v in sent.items() if k in SENT}))

            ask()
            asked.add((operation.ok().method, operation.ok().path))
    assert {("post", "/predict/{model}"), ("post", "/keys"), ("get", "/agents")} <= asked
    assert {("post", "/llm/generate"), ("post", "/llm/train"), ("get", "/llm/training")} <= asked
    assert len(asked) >= 25
