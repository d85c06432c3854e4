from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from asgi import OpenGate, call

from sunloom.config.request_limits import RequestLimits
from sunloom.errors import NotFoundError, QuotaError, RateLimitError
from sunloom.serving.asgi import send_json
from sunloom.serving.auth.middleware import GatewayMiddleware, caller

BODY = {"type", "code", "message", "hint", "param", "request_id"}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    who = caller(scope)
    await send_json(
        send,
        200,
        {"root": scope["root_path"], "id": who.request_id, "tenant": who.key and who.key.tenant},
    )


def answering(status: int, body: bytes, content_type: bytes = b"application/json") -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body[:3], "more_body": True})
        await send({"type": "http.response.body", "body": body[3:]})

    return app


def get(app: Any, path: str, key: str | None = "good", **more: Any) -> Any:
    return asyncio.run(call(app, "GET", path, key, **more))


@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/docs", "/healthz/x", "/nope"])
def test_routes_need_a_key(path: str) -> None:
    answer = get(GatewayMiddleware(echo, OpenGate("admin"), "t"), path, key=None)
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == BODY
    assert answer.json()["error"]["code"] == "unauthenticated"
    assert "Bearer" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_key(path: str) -> None:
    assert get(GatewayMiddleware(echo, OpenGate(), "t"), path, key=None).json()["tenant"] is None


def test_scope_is_checked_by_prefix() -> None:
    guard = GatewayMiddleware(echo, OpenGate("features"), "t")
    assert get(guard, "/features/customer").status_code == 200
    assert get(guard, "/featuresx").status_code == 200  # any key: no rule but the root's
    refused = get(guard, "/v1/models")
    assert refused.status_code == 403
    assert refused.json()["error"]["type"] == "permission_error"


def test_the_scope_models_does_not_allow_promotion() -> None:
    guard = GatewayMiddleware(echo, OpenGate("models"), "t")
    assert get(guard, "/models").status_code == 200
    promoted = asyncio.run(call(guard, "POST", "/models/a/aliases/production"))
    assert promoted.status_code == 403


def test_request_id_is_echoed_or_made() -> None:
    guard = GatewayMiddleware(echo, OpenGate("admin"), "t")
    given = get(guard, "/x", headers={"X-Request-ID": "abc-1"})
    assert given.headers["x-request-id"] == given.json()["id"] == "abc-1"
    made = get(guard, "/x", headers={"X-Request-ID": "not allowed {}"})
    assert made.headers["x-request-id"] == made.json()["id"] != "not allowed {}"


def test_serve_sets_the_header_itself() -> None:
    guard = GatewayMiddleware(echo, OpenGate("admin"), "t", server_sets_request_id=True)
    answer = get(guard, "/x", headers={"X-Request-ID": "abc"})
    assert "x-request-id" not in answer.headers
    assert answer.headers["x-sunloom-app"] == "t"


def test_root_path_is_reset() -> None:
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await GatewayMiddleware(echo, OpenGate("admin"), "t")(
            {**scope, "root_path": "/v1"}, receive, send
        )

    assert get(mounted, "/v1/models").json()["root"] == ""


@pytest.mark.parametrize(
    ("status", "body", "message", "param"),
    [
        (404, b'{"detail":"Not Found"}', "Not Found", None),
        (
            422,
            b'{"detail":[{"loc":["body","a"],"msg":"Field required","type":"missing"}]}',
            "body.a: Field required",
            "a",
        ),
        (400, b'{"error":{"message":"too long","type":"BadRequestError","param":"p","code":400}}',
         "too long", "p"),
        (503, b"Traceback: secrets", "The service cannot answer at the moment.", None),
        (404, b"Path '/x' not found", "Path '/x' not found", None),
    ],
)  # fmt: skip
def test_every_error_has_the_one_body(
    status: int, body: bytes, message: str, param: str | None
) -> None:
    answer = get(GatewayMiddleware(answering(status, body), OpenGate("admin"), "t"), "/x")
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == BODY
    assert (error["message"], error["param"]) == (message, param)
    assert error["request_id"] == answer.headers["x-request-id"]
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_own_errors_keep_hint_and_code() -> None:
    body = json.dumps({"error": {"code": "x", "message": "m", "hint": "h", "param": None}}).encode()
    answer = get(GatewayMiddleware(answering(409, body), OpenGate("admin"), "t"), "/x")
    assert answer.json()["error"]["hint"] == "h"
    assert answer.json()["error"]["code"] == "x"


def test_exceptions_become_responses_and_are_counted() -> None:
    async def missing(scope: Any, receive: Any, send: Any) -> None:
        raise NotFoundError("no model 'a'", known=["b"], name="a", param="model")

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("secret detail")

    admission = OpenGate("admin")
    answer = get(GatewayMiddleware(missing, admission, "t"), "/v1/models")
    assert answer.status_code == 404
    assert answer.json()["error"]["hint"] == "Known: b"
    failed = get(GatewayMiddleware(broken, admission, "t"), "/v1/models")
    assert failed.status_code == 500
    assert "secret detail" not in failed.text
    assert admission.seen == [("/v1", "GET", 404), ("/v1", "GET", 500)]


def test_a_stream_that_breaks_is_not_ended_politely() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        raise RuntimeError("engine died")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer good")]
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers}
    with pytest.raises(RuntimeError, match="engine died"):
        asyncio.run(GatewayMiddleware(broken, OpenGate("admin"), "t")(scope, None, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def test_a_browser_may_send_the_key_as_password_for_the_docs_only() -> None:
    guard = GatewayMiddleware(echo, OpenGate("admin"), "t")
    basic = {"Authorization": "Basic " + base64.b64encode(b"me:good").decode()}
    assert get(guard, "/docs", None, headers=dict(basic)).status_code == 200
    assert get(guard, "/models", None, headers=dict(basic)).status_code == 401


def test_websockets_are_refused() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(
        GatewayMiddleware(echo, OpenGate("admin"), "t")({"type": "websocket"}, receive, send)
    )
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def events(scope: Any, receive: Any, send: Any) -> None:
    """An endless stream, sent from a task of its own as Starlette does for older servers."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]

    async def stream() -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            scope["ended"].append("cancelled")
            raise

    async with asyncio.TaskGroup() as group:
        group.create_task(stream())


def test_a_stream_ends_with_an_error_event_once_its_key_is_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sunloom.serving.auth.middleware._STREAM_CHECK_S", 0.01)
    admission = OpenGate("admin")
    sent: list[Any] = []
    ended: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message)
        # Revoked once the stream has begun.
        admission.is_revoked = message["type"] == "http.response.body"

    async def walk() -> int:
        headers = [(b"authorization", b"Bearer good")]
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers, "ended": ended}
        await GatewayMiddleware(events, admission, "t")(scope, None, send)  # type: ignore[arg-type]
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(asyncio.wait_for(walk(), 10)) == 0
    assert ended == ["cancelled"]
    assert [message["type"] for message in sent][1:] == ["http.response.body"] * 2
    assert not sent[-1].get("more_body")
    name, data, *_ = sent[-1]["body"].decode().split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))["error"]
    assert set(error) == BODY
    assert error["code"] == "unauthenticated"
    assert admission.seen == [("/", "GET", 401)]


def test_a_limit_that_passes_and_one_that_does_not_have_two_answers() -> None:
    async def limited(scope: Any, receive: Any, send: Any) -> None:
        raise RateLimitError("60 a minute", retry_after_s=17)

    async def exhausted(scope: Any, receive: Any, send: Any) -> None:
        raise QuotaError("the quota is used up")

    passing = get(GatewayMiddleware(limited, OpenGate("admin"), "t"), "/x")
    lasting = get(GatewayMiddleware(exhausted, OpenGate("admin"), "t"), "/x")
    assert (passing.status_code, lasting.status_code) == (429, 429)
    assert passing.json()["error"]["code"] == "rate_limited"
    assert passing.headers["retry-after"] == "17"
    assert lasting.json()["error"]["code"] == "insufficient_quota"
    assert "retry-after" not in lasting.headers
    assert lasting.headers["x-should-retry"] == "false"


def test_the_source_of_repeated_failures_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    guard = GatewayMiddleware(echo, OpenGate("admin"), "t")
    for _ in range(20):
        get(guard, "/x", key="wrong")
    get(guard, "/x", key=None)
    monkeypatch.setattr("sunloom.serving.auth.failed_attempts.asyncio.sleep", sleep)
    assert get(guard, "/x", key="wrong").status_code == 401
    assert get(guard, "/x").status_code == 200
    assert len(waited) == 1
    assert 0 < waited[0] <= 0.1


def test_a_body_that_does_not_arrive_is_refused() -> None:
    sent: list[Any] = []
    pieces = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> Any:
        if (piece := next(pieces, None)) is None:
            await asyncio.Event().wait()
        return piece

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer good")]
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": headers}
    guard = GatewayMiddleware(echo, OpenGate("admin"), "t", limits=RequestLimits(arrival_s=0.05))
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 10))
    assert sent[0]["status"] == 408
    # Else what is left of the body would keep the connection open.
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]["code"] == "request_timeout"


def test_what_is_left_is_told_except_on_the_hot_path() -> None:
    gate = OpenGate("admin")
    answer = get(GatewayMiddleware(echo, gate, "t"), "/x")
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"
    hot = get(GatewayMiddleware(echo, gate, "t", is_hot=True), "/x")
    assert "x-ratelimit-remaining-requests" not in hot.headers
    assert (
        "x-ratelimit-remaining-requests"
        not in get(GatewayMiddleware(echo, gate, "t"), "/healthz", None).headers
    )


def test_refused_requests_are_counted_and_reads_of_what_is_not_there_are_none() -> None:
    admission = OpenGate("admin")

    def refused_with(method: str, *statuses: int, key: str | None = "good") -> int:
        before = admission.refused
        for status in statuses:
            guard = GatewayMiddleware(answering(status, b'{"detail":"x"}'), admission, "t")
            path = "/x" if key else "/healthz"
            assert asyncio.run(call(guard, method, path, key)).status_code == status
        return admission.refused - before

    assert refused_with("GET", 200, 404, 409, 429, 500) == 0
    assert refused_with("HEAD", 404) == 0
    assert refused_with("GET", 400, 403, 405) == 3
    assert refused_with("POST", 404, 413, 422) == 3
    # Without a key it is nobody's.
    assert refused_with("GET", 400, key=None) == 0
