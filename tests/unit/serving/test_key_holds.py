"""Bounds of keys over several replicas, processes on one database."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import forked
import pytest
from busy_replica import CountedTokens, busy_key, send_until_quota, take_and_keep

from sunloom.core.database import Database
from sunloom.errors import RateLimitError
from sunloom.serving.apps.event_streams import StreamLimit
from sunloom.serving.apps.llm.key_budget import KeyBudget
from sunloom.serving.apps.llm.request_checks import Work
from sunloom.serving.auth.key_holds import KeyHolds
from sunloom.serving.auth.rate_limits import spent_tokens


def run_in_two(folder: Path, work: Callable[..., None], *arguments: Any) -> list[Any]:
    """The reports of two processes that do the same at once."""
    reports = [folder / "first.json", folder / "second.json"]
    processes = [forked.start(work, *arguments, str(report)) for report in reports]
    for process in processes:
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    return [json.loads(report.read_text()) for report in reports]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


def test_a_quota_is_exact_over_replicas(url: str, tmp_path: Path) -> None:
    first, second = run_in_two(tmp_path, send_until_quota, url, 105, 4)
    # Requests of 10 tokens: ten fit, and a last one whose answer ends where the quota does.
    assert first + second == 11
    assert min(first, second) > 0
    database = Database(url)
    with database.session() as session:
        assert spent_tokens(session, "key_busy") == 105
    # Nothing is left behind.
    seen: list[tuple[int, int]] = []
    KeyHolds(database, "tokens").take("key_busy", lambda *amounts: seen.append(amounts) or 0)
    assert seen == [(0, 105)]


def test_streams_are_bounded_over_replicas(url: str, tmp_path: Path) -> None:
    assert sum(run_in_two(tmp_path, take_and_keep, url, 7, 6)) == 7
    # Both have ended without giving anything back: their streams are free again in time.
    now = time.time()
    soon, later = (KeyHolds(Database(url), "streams", lambda s=s: now + s) for s in (1.0, 40.0))
    assert soon.take("key_busy", lambda held, _: int(held < 7)) == ("", 0)
    assert later.take("key_busy", lambda held, _: int(held < 7))[1] == 1


def test_what_lives_is_renewed(url: str) -> None:
    now = 1000.0
    holds = KeyHolds(Database(url), "streams", lambda: now)
    holder, amount = holds.take("key_1", lambda held, _: 5)
    assert amount == 5
    for _ in range(3):
        now += 20
        holds.renew()
    seen: list[int] = []
    holds.take("key_1", lambda held, _: seen.append(held) or 0)
    holds.release("key_1", holder)
    holds.take("key_1", lambda held, _: seen.append(held) or 0)
    assert seen == [5, 0]


def test_a_reservation_of_one_replica_counts_in_the_other(url: str) -> None:
    database, key = Database(url), busy_key(30)
    work = Work(prompts=1, sequences=2, prompt_tokens=4, max_tokens=7, longest_answer=100)
    first, second = (
        KeyBudget(CountedTokens(database), KeyHolds(database, "tokens")) for _ in range(2)
    )

    async def keep(entered: asyncio.Event) -> None:
        async with first.reserve(key, work):
            entered.set()
            await asyncio.Event().wait()

    async def walk() -> None:
        entered = asyncio.Event()
        running = asyncio.create_task(keep(entered))
        await entered.wait()
        with pytest.raises(RateLimitError, match="may use 18 and this one 18"):
            async with second.reserve(key, work):
                pass
        # Its client leaves.
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        async with second.reserve(key, work) as max_tokens:
            assert max_tokens is None

    asyncio.run(walk())


def test_a_request_that_is_cancelled_while_it_is_refused_stays_cancelled(url: str) -> None:
    holds, is_asked, may_refuse = KeyHolds(Database(url), "tokens"), Event(), Event()

    def refuse(_held: int, _spent: int) -> int:
        is_asked.set()
        may_refuse.wait(30)
        raise RateLimitError("too many")

    async def ask() -> None:
        async with holds.hold("key_1", refuse):
            pass

    async def walk() -> None:
        asking = asyncio.create_task(ask())
        await asyncio.to_thread(is_asked.wait, 30)
        asking.cancel()
        await asyncio.sleep(0)
        may_refuse.set()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(walk())


def test_streams_of_two_replicas_share_a_bound(url: str) -> None:
    database, key = Database(url), busy_key(None)
    first, second = (StreamLimit(1, KeyHolds(database, "streams")) for _ in range(2))

    async def walk() -> None:
        async with first.hold(key):
            with pytest.raises(RateLimitError, match="1 streams"):
                async with second.hold(key):
                    pass
        async with second.hold(key):
            pass

    asyncio.run(walk())
