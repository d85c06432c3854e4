"""Turns at the engine: who is let in when, without an engine."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from sunloom.errors import RateLimitError
from sunloom.serving.apps.llm.fair_queue import FairQueue, Owner


class Requests:
    """Requests that run until a test ends them; their names begin with the tenant's."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.running: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def send(self, *names: str, sequences: int = 1, account: str = "") -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            work = self._run(name, account or name[0], sequences)
            self.tasks[name] = asyncio.create_task(work)
            await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await self.tasks[name]
            # What is let in runs with the next turn of the loop.
            await asyncio.sleep(0)

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.wait({self.tasks[name]})
        await asyncio.sleep(0)

    async def _run(self, name: str, account: str, sequences: int) -> None:
        async with self.queue.hold(Owner(name[0], account), sequences):
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)


def requests(share: int, capacity: int = 64, max_waiting: int = 100) -> Requests:
    return Requests(FairQueue(share, capacity, max_waiting))


def assert_empty(queue: FairQueue) -> None:
    assert [queue._of_tenants, queue._of_accounts, queue._waiting] == [{}, {}, {}]


def test_a_tenant_beyond_its_share_waits_and_others_do_not() -> None:
    async def run() -> None:
        sent = requests(share=2)
        await sent.send("a1", "a2", "a3", "a4")
        assert sent.running == ["a1", "a2"]
        # Not even with another key.
        await sent.send("a5", account="another")
        await sent.send("b1")
        assert sent.running == ["a1", "a2", "b1"]
        await sent.end("a1")
        assert sent.running == ["a2", "b1", "a5"]
        await sent.end("b1", "a2", "a5")
        assert sent.running == ["a3", "a4"]
        await sent.end("a3", "a4")

    asyncio.run(run())


def test_a_full_engine_is_divided_by_turns() -> None:
    async def run() -> None:
        sent = requests(share=4, capacity=4)
        await sent.send("a1", "a2", "a3", "a4", "a5", "a6")
        await sent.send("b1", "b2", "b3")
        await sent.send("c1")
        turns = []
        for name in ("a1", "a2", "a3", "a4"):
            await sent.end(name)
            turns.append(sent.running[-1])
        # One for each that has none, then for who has the fewest and waits longest.
        assert turns == ["b1", "c1", "a5", "a6"]
        await sent.send("a7")
        await sent.end("c1")
        assert sent.running == ["b1", "a5", "a6", "b2"]
        await sent.end("a5")
        assert sent.running == ["b1", "a6", "b2", "a7"]
        await sent.end("b1")
        assert sorted(sent.running) == ["a6", "a7", "b2", "b3"]
        await sent.end("a6", "a7", "b2", "b3")

    asyncio.run(run())


def test_many_answers_do_not_starve_behind_single_ones() -> None:
    async def run() -> None:
        sent = requests(share=3)
        await sent.send("a1", "a2")
        await sent.send("a3", sequences=3)
        # With its own key, which has nothing in the engine, and later.
        await sent.send("a4", "a5")
        await sent.end("a1")
        assert sent.running == ["a2"]
        await sent.end("a2")
        assert sent.running == ["a3"]
        await sent.end("a3")
        assert sent.running == ["a4", "a5"]
        # More than a share are as many as there are.
        await sent.send("b1", sequences=50)
        assert sent.running == ["a4", "a5", "b1"]
        await sent.send("b2")
        assert "b2" not in sent.running
        await sent.end("a4", "a5", "b1", "b2")

    asyncio.run(run())


def test_who_leaves_keeps_nobody_from_a_turn() -> None:
    async def run() -> None:
        sent = requests(share=2)
        await sent.send("a1")
        await sent.send("a2", sequences=2)
        await sent.send("a3", "a4")
        await sent.leave("a2")
        assert sent.running == ["a1", "a3"]
        # Its turn comes in the moment in which its client leaves.
        sent.tasks["a1"].cancel()
        await asyncio.sleep(0)
        sent.tasks["a4"].cancel()
        await asyncio.wait({sent.tasks["a1"], sent.tasks["a4"]})
        await sent.send("a5")
        assert sent.running == ["a3", "a5"]
        await sent.end("a3", "a5")
        assert_empty(sent.queue)

    asyncio.run(run())


def test_waiting_requests_of_a_key_are_bounded() -> None:
    async def run() -> None:
        sent = requests(share=1, max_waiting=1)
        await sent.send("a1", "a2", "a3")
        with pytest.raises(RateLimitError, match="1 requests of key a wait") as caught:
            await sent.tasks["a3"]
        assert caught.value.retry_after_s == 5
        await sent.send("a4", account="another")
        assert not sent.tasks["a4"].done()
        await sent.end("a1")
        await sent.end("a2")
        assert sent.running == ["a4"]
        await sent.end("a4")

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(5))
def test_bounds_hold_and_all_are_served(seed: int) -> None:
    rng = random.Random(seed)
    queue = FairQueue(share=3, capacity=5, max_waiting=100)
    held = Counter[str]()
    outcomes = Counter[str]()

    async def ask(tenant: str, account: str, sequences: int) -> None:
        async with queue.hold(Owner(tenant, account), sequences):
            held[tenant] += sequences
            assert held[tenant] <= 3
            assert held.total() <= 5
            try:
                for _ in range(rng.randrange(5)):
                    await asyncio.sleep(0)
            finally:
                held[tenant] -= sequences
        outcomes["served"] += 1

    async def run() -> None:
        tasks = []
        for _ in range(300):
            work = ask(rng.choice("abc"), rng.choice("xy"), rng.randint(1, 3))
            tasks.append(asyncio.create_task(work))
            if rng.random() < 0.3:
                await asyncio.sleep(0)
            if rng.random() < 0.2:
                rng.choice(tasks).cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        outcomes["left"] = sum(isinstance(r, asyncio.CancelledError) for r in results)

    asyncio.run(run())
    assert outcomes.total() == 300
    assert outcomes["left"] < 100
    assert_empty(queue)
