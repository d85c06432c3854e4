"""Tenants whose requests are refused again and again are let in at a slower pace."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from asgi import call

from sunloom.config import Settings
from sunloom.config.request_limits import RequestLimits
from sunloom.core.database import open_database
from sunloom.errors import RateLimitError, RequestError
from sunloom.serving.asgi import send_json
from sunloom.serving.auth.api_keys import create_key
from sunloom.serving.auth.middleware import (
    GatewayMiddleware,
    KeyAdmission,
    set_process_admission,
)
from sunloom.serving.auth.refused_requests import RefusedRequests
from sunloom.serving.deploy.fast_path import FastPath
from sunloom.serving.metrics.request_metrics import RequestMetrics


class Clock:
    """A clock that runs while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("sunloom.serving.auth.refused_requests.asyncio.sleep", self._sleep)

    def __call__(self) -> float:
        return self.now

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_pace_settles_where_as_many_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    refused = RefusedRequests(RequestLimits(refusals=40), clock)

    async def passing(seconds: float, refused_share: int) -> int:
        """Requests that pass, one after the other; one in so many is refused."""
        end, number = clock.now + seconds, 0
        while clock.now < end:
            await refused.wait_for_turn("a")
            clock.now += 0.001
            number += 1
            if number % refused_share == 0:
                refused.count("a")
        return number

    async def walk() -> None:
        for _ in range(40):
            await refused.wait_for_turn("a")
            refused.count("a")
        # Ordinary mistakes cost nothing.
        assert clock.now == 100.0
        assert not refused.has_slow_tenants
        first = await passing(60, 1)
        assert 60 <= first <= 120
        assert 55 <= await passing(60, 1) <= 65
        # Others are not held up, nor are good requests by more than they are mixed with bad ones.
        before = clock.now
        await refused.wait_for_turn("b")
        assert clock.now == before
        assert await passing(60, 10) > 400
        clock.now += 80
        assert not refused.has_slow_tenants
        before = clock.now
        await refused.wait_for_turn("a")
        assert clock.now == before

    asyncio.run(walk())


def test_a_turn_that_is_far_is_refused_with_a_true_time() -> None:
    now = 0.0
    refused = RefusedRequests(RequestLimits(refusals=1), lambda: now)
    for _ in range(21):
        refused.count("a")

    async def walk() -> list[BaseException | None]:
        tasks = [asyncio.create_task(refused.wait_for_turn("a")) for _ in range(200)]
        await asyncio.sleep(0)
        # Those beyond the bound of waiting requests are answered at once.
        assert sum(task.done() for task in tasks) == 200 - 128
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [task.exception() for task in tasks if not task.cancelled()]

    errors = asyncio.run(walk())
    assert len(errors) == 200 - 128
    # One request a second: five turns are taken, at 0, 1, 2, 3 and 4 s.
    assert all(isinstance(error, RateLimitError) and error.retry_after_s == 5 for error in errors)
    assert not refused._tenants["a"].waiting


def test_tenants_are_bounded() -> None:
    refused = RefusedRequests(RequestLimits())
    for number in range(2_000):
        refused.count(str(number))
    assert len(refused._tenants) == 1_000


def test_requests_wait_ahead_of_their_bodies_and_of_serve(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sunloom.serving.auth.middleware._process_admission", [])
    for name, value in (("_SPACING_S", 0.005), ("_LONGEST_WAIT_S", 0.4), ("_LATE_S", 0.1)):
        monkeypatch.setattr(f"sunloom.serving.auth.refused_requests.{name}", value)
    limits = RequestLimits(refusals=5)
    serving = settings.serving.model_copy(update={"limits": limits})
    settings = settings.model_copy(update={"serving": serving})
    refusing, _ = create_key(settings, ["llm"], "hostile")
    further, _ = create_key(settings, ["llm"], "hostile")
    honest, _ = create_key(settings, ["llm"], "honest")
    operators, _ = create_key(settings, ["admin"], "hostile")
    passed: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/bad":
            raise RequestError("no")
        await send_json(send, 200, {})

    async def walk() -> None:
        admission = KeyAdmission(settings, RequestMetrics(open_database(settings), "llm"))
        set_process_admission(admission)
        gate = GatewayMiddleware(app, admission, "llm")

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            passed.append(time.monotonic())
            await gate(scope, receive, send)

        front = FastPath(serve)
        for _ in range(5 + 15):
            assert (await call(gate, "POST", "/v1/bad", refusing, json={})).status_code == 400
        # A key without the scope counts, too: 20 beyond what is free, a request each 0.1 s.
        for _ in range(5):
            assert (await call(gate, "GET", "/features", refusing)).status_code == 403
        began = time.monotonic()
        requests = (call(front, "POST", "/v1/good", further, json={}) for _ in range(8))
        answers = await asyncio.gather(*requests)
        elapsed = time.monotonic() - began
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 3
        assert 0.3 < elapsed < 2
        for answer in answers:
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "rate_limited"
                assert answer.headers["retry-after"] == "1"
                assert "x-request-id" in answer.headers
                assert "connection" not in answer.headers
        assert len(passed) == 5
        long = await asyncio.gather(
            *(call(front, "POST", "/v1/good", further, content=b" " * 70_000) for _ in range(8))
        )
        late = [answer for answer in long if answer.status_code == 429]
        assert all(answer.headers["connection"] == "close" for answer in late)
        assert late
        for key in (honest, operators):
            began = time.monotonic()
            assert (await call(front, "POST", "/v1/good", key, json={})).status_code == 200
            assert time.monotonic() - began < 0.3

    asyncio.run(walk())
