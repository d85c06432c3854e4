"""The outermost layer: keyless requests end here, hot reads are answered here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sunloom.serving import door


@pytest.fixture(autouse=True)
def no_direct_apps() -> Iterator[None]:
    yield
    door._direct.clear()


def ask(
    path: str, headers: tuple[tuple[bytes, bytes], ...] = (), method: str = "GET"
) -> list[str | int]:
    """Who answers: the app behind the door, the direct app, or the door itself (a status)."""
    answered: list[str | int] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        answered.append("behind")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(door.Door(behind)(scope, None, send))  # type: ignore[arg-type]
    return answered


KEY = ((b"authorization", b"Bearer x"),)


def test_without_a_key_only_health_passes() -> None:
    assert ask("/features/customer") == [401]
    assert ask("/healthz") == ["behind"]
    assert ask("/-/routes", KEY) == [401]
    assert ask("/features/customer", KEY) == ["behind"]


def test_a_direct_app_answers_its_prefix_and_no_other() -> None:
    seen: list[str] = []

    async def direct(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])

    door.answer_here("/features", direct, ["/features/batch"])
    assert ask("/features/customer", KEY) == []
    assert ask("/features") == []
    assert ask("/featuresque", KEY) == ["behind"]
    assert ask("/predict/x", KEY) == ["behind"]
    assert ask("/predict/x") == [401]
    assert ask("/features/batch", KEY, "POST") == []
    assert ask("/features/ingest", KEY, "POST") == ["behind"]
    assert seen == ["/features/customer", "/features", "/features/batch"]
