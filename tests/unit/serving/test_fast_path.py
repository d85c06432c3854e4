"""The outermost layer rejects requests without a key and answers hot reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sunloom.serving.asgi import DEFAULT_LIMITS
from sunloom.serving.deploy import fast_path, slow_requests
from sunloom.serving.deploy.environment import ARRIVAL_S


@pytest.fixture(autouse=True)
def no_direct_apps() -> Iterator[None]:
    yield
    fast_path._hot_apps.clear()
    auto.AutoHTTPProtocol = HttpToolsProtocol


def ask(
    path: str, headers: tuple[tuple[bytes, bytes], ...] = (), method: str = "GET"
) -> list[str | int]:
    """Who answers: the next app, the registered app, or the fast path itself (a status)."""
    answered: list[str | int] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        answered.append("behind")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(fast_path.FastPath(behind)(scope, None, send))  # type: ignore[arg-type]
    return answered


KEY = ((b"authorization", b"Bearer x"),)


def test_without_a_key_only_health_passes() -> None:
    assert ask("/features/customer") == [401]
    assert ask("/healthz") == ["behind"]
    assert ask("/-/routes", KEY) == [401]
    assert ask("/features/customer", KEY) == ["behind"]


def test_a_registered_app_answers_its_prefix_only() -> None:
    seen: list[str] = []

    async def direct(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])

    fast_path.register_fast_path("/features", direct, ["/features/batch"])
    assert ask("/features/customer", KEY) == []
    assert ask("/features") == []
    assert ask("/featuresque", KEY) == ["behind"]
    assert ask("/predict/x", KEY) == ["behind"]
    assert ask("/predict/x") == [401]
    assert ask("/features/batch", KEY, "POST") == []
    assert ask("/features/ingest", KEY, "POST") == ["behind"]
    assert seen == ["/features/customer", "/features", "/features/batch"]


def test_serve_sees_no_header_that_it_would_fail_on_or_obey() -> None:
    sent = [
        (b"x-request-id", b"\xff"),
        (b"x-request-id", b"abc-1"),
        (b"x-request-timeout-seconds", b"\xff"),
        (b"x-request-timeout-seconds", b"-1"),
        (b"x-request-disconnect-disabled", b"?1"),
        (b"serve_multiplexed_model_id", b"a"),
        (b"x-session-id", b"\xff"),
        (b"traceparent", b"\xff"),
        (b"idempotency-key", b"\xfcber"),
        *KEY,
    ]
    seen: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])

    scope = {"type": "http", "method": "POST", "path": "/predict/x", "headers": sent}
    asyncio.run(fast_path.FastPath(behind)(scope, None, None))  # type: ignore[arg-type]
    assert seen == [(b"x-request-id", b"abc-1"), (b"idempotency-key", b"\xfcber"), *KEY]


def test_serve_reads_no_more_ahead_than_the_longest_body() -> None:
    read = 0

    async def receive() -> Any:
        return {"type": "http.request", "body": b" " * (1 << 20), "more_body": True}

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        while True:
            read += len((await receive())["body"])

    async def run() -> None:
        scope = {"type": "http", "method": "POST", "path": "/predict/x", "headers": KEY}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fast_path.FastPath(behind)(scope, receive, None), 0.1)  # type: ignore[arg-type]

    asyncio.run(run())
    assert read == DEFAULT_LIMITS.body_bytes + (1 << 20)


class Wire(asyncio.Transport):
    """The socket's side of a connection: what is written to it, write by write."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError("the connection was to stay open")


def written(*requests: bytes) -> list[bytes]:
    """What uvicorn's protocol writes when it is given these bytes, piece by piece."""

    async def direct(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        headers = [(b"content-length", b"%d" % (2 + len(body)))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<", "more_body": True})
        await send({"type": "http.response.body", "body": body + b">"})

    async def run() -> list[bytes]:
        config = uvicorn.Config(fast_path.FastPath(direct), http="httptools", ws="none")
        config.load()
        protocol = HttpToolsProtocol(config, uvicorn.server.ServerState(), {})
        wire = Wire()
        protocol.connection_made(wire)
        for request in requests:
            protocol.data_received(request)
            await asyncio.sleep(0.05)
        return wire.writes

    fast_path.register_fast_path("/features", direct, ["/features/batch"])
    return asyncio.run(run())


def test_head_and_body_are_written_together() -> None:
    one = b"GET /features/x HTTP/1.1\r\nhost: h\r\n\r\n"
    first, rest, again, last = written(one, one)
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n<")
    assert rest == last == b">"
    assert again == first


def test_expect_100_continue_is_answered_before_the_body() -> None:
    head = b"POST /features/batch HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n"
    go_on, answer, rest = written(head + b"expect: 100-continue\r\n\r\n", b"ab")
    assert go_on == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.endswith(b"\r\n\r\n<")
    assert rest == b"ab>"


def test_a_request_that_does_not_arrive_ends_on_the_replicas_own_port() -> None:
    """The real server: a half head, a half body, nothing at all; and a slow answer, which stays."""
    complete = b"GET /features/x HTTP/1.1\r\nhost: h\r\n\r\n"
    half_body = b"POST /features/batch HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nab"
    received: dict[bytes, bytes] = {}

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        if message["type"] == "http.request":
            await asyncio.sleep(0.4)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"late"})

    async def ask(port: int, sent: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        try:
            received[sent] = await asyncio.wait_for(reader.read(), 0.7)
        except TimeoutError:
            received[sent] = b"still open"
        writer.close()

    async def run() -> None:
        config = uvicorn.Config(slow, port=0, ws="none", log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        await asyncio.gather(
            *(ask(port, sent) for sent in (b"", complete[:-2], half_body, complete))
        )
        server.should_exit = True
        await serving

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slow_requests.ArrivalProtocol, "arrival_s", 12.0)
        patch.setenv(ARRIVAL_S, "60")
        fast_path.middlewares()
        assert slow_requests.ArrivalProtocol.arrival_s == 62.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slow_requests.ArrivalProtocol, "arrival_s", 0.2)
        asyncio.run(run())
    assert received == {b"": b"", complete[:-2]: b"", half_body: b"", complete: b"still open"}
