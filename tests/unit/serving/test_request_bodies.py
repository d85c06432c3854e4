"""Bodies and paths that reach no app: one reader and one spelling for all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgi import OpenGate, call

from sunloom.config.request_limits import RequestLimits
from sunloom.serving.asgi import json_object, send_json
from sunloom.serving.auth.middleware import GatewayMiddleware

LIMITS = RequestLimits(body_bytes=4096, levels=8, rows=100, keys=20, containers=300)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = await json_object(scope, receive) if scope["method"] == "POST" else None
    again = (await receive())["body"].decode() if body is not None else ""
    answer = {"path": scope["path"], "method": scope["method"], "body": body, "again": again}
    await send_json(send, 200, answer)


APP = GatewayMiddleware(echo, OpenGate("admin"), "t", limits=LIMITS)


def ask(method: str, path: str, **more: Any) -> Any:
    return asyncio.run(call(APP, method, path, **more))


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"task": "hi \\ud83d"}', "The body is not JSON"),
        (b'{"task": "\xff"}', "The body is not JSON"),
        (b'{"task": NaN}', "The body is not JSON"),
        (b'{"task": 1e999}', "The body is not JSON"),
        (b'{"task": ', "The body is not JSON"),
        (b'["task"]', "The body must be a JSON object."),
        (b'{"task": "a\\u0000b"}', "A text of the body holds the character U+0000."),
        (b'{"n": 9223372036854775808}', "9223372036854775808 is beyond 64 bits"),
        (b'{"n": -9223372036854775809}', "-9223372036854775809 is beyond 64 bits"),
        (b'{"n": ' + b"1" * 100 + b"}", "111111111111111111111111… is beyond 64 bits"),
        (nested(9), "The body is nested more than 8 levels deep."),
        (b'{"a":' + b"[" * 1100 + b"]" * 1100 + b"}", "The body has more than 300 lists"),
        (json.dumps({"rows": [0] * 101}).encode(), "At most 100 rows a request."),
        (
            json.dumps({"rows": [{f"k{i}": i for i in range(21)}]}).encode(),
            "At most 20 keys an object.",
        ),
        (json.dumps({"rows": [{}] * 300}).encode(), "The body has more than 300 lists"),
    ],
)
def test_what_no_app_takes_is_refused_ahead_of_all(body: bytes, message: str) -> None:
    answer = ask("POST", "/x", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"n": 9223372036854775807, "m": -9223372036854775808}',
        b'{"id": "1234567890123456789012345678901234567890"}',
        b'{"text": "a backslash and a letter: \\\\u0000"}',
        b'{"x": 0.12345678901234567890123}',
        nested(8),
        json.dumps({"rows": [0] * 100}).encode(),
    ],
)
def test_what_an_app_may_take_arrives_parsed_and_as_it_was_sent(body: bytes) -> None:
    answer = ask("POST", "/x", content=body).json()
    assert (answer["body"], answer["again"]) == (json.loads(body), body.decode())


def test_a_long_body_ends_at_the_limit_while_it_arrives() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1024
            yield b" " * 1024

    answers = [
        ask("POST", "/x", content=b" " * 4097),
        ask("POST", "/x", content=b"{}", headers={"Content-Length": "99999999999999999999"}),
        ask("POST", "/x", content=endless()),
    ]
    for answer in answers:
        assert answer.status_code == 413
        error = answer.json()["error"]
        assert (error["code"], error["message"]) == (
            "too_large",
            "The body is longer than 4096 bytes.",
        )
    assert taken == 5120


def test_without_a_key_no_body_is_read() -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    assert asyncio.run(call(APP, "POST", "/x", None, content=unread())).status_code == 401


def test_a_path_has_one_spelling() -> None:
    assert ask("GET", "/models/").json()["path"] == "/models"
    assert ask("POST", "/models/", content=b"{}").json()["path"] == "/models"
    assert ask("GET", "/").json()["path"] == "/"
    twice = ask("GET", "/v1//models")
    assert twice.status_code == 404
    assert twice.json()["error"]["hint"] == "Write /v1/models."
    assert ask("GET", "/models/a%00b").status_code == 400
    assert ask("GET", "/models?kind=%00").status_code == 400


def test_a_slash_too_many_does_not_avoid_a_scope() -> None:
    guard = GatewayMiddleware(echo, OpenGate("llm"), "t")
    assert asyncio.run(call(guard, "GET", "/keys/")).status_code == 403
    assert asyncio.run(call(guard, "GET", "/v1//keys")).status_code == 404


def test_head_is_get_without_a_body() -> None:
    seen: list[Any] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(1_000_000):
            await send({"type": "http.response.body", "body": b"data", "more_body": True})
            seen.append(number)

    head = ask("HEAD", "/models")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == ask("GET", "/models").headers["content-length"]
    stream = GatewayMiddleware(endless, OpenGate("admin"), "t")
    assert asyncio.run(call(stream, "HEAD", "/x")).headers["content-type"] == "text/event-stream"
    assert seen == []
