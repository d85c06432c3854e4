"""A replica of the language app in a process of its own, whose key sends what its quota allows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from sunloom.core.database import Database, utc_now
from sunloom.errors import QuotaError, RateLimitError
from sunloom.serving.apps.llm.key_budget import KeyBudget
from sunloom.serving.apps.llm.request_checks import Work
from sunloom.serving.auth.api_keys import Allowance, KeyRecord
from sunloom.serving.auth.key_holds import KeyHolds
from sunloom.serving.auth.rate_limits import RateLimiter, Spent


class CountedTokens:
    """The tokens of keys as ``KeyAdmission`` counts them."""

    def __init__(self, database: Database) -> None:
        self._limiter = RateLimiter(database)

    def spend(self, key: KeyRecord, spent: Spent) -> None:
        self._limiter.spend(key, spent)

    def remaining_tokens(self, key: KeyRecord) -> int | None:
        return self._limiter.remaining_of(key).tokens

    def write_counts(self) -> None:
        self._limiter.sync()


def busy_key(quota: int | None) -> KeyRecord:
    return KeyRecord(
        id="key_busy",
        shown="sl-…",
        tenant="acme",
        scopes=("llm",),
        allowance=Allowance(1000, quota),
        parent=None,
        purpose="",
        created_at=utc_now(),
        expires_at=None,
        revoked_at=None,
    )


def send_until_quota(url: str, quota: int, at_once: int, report: str) -> None:
    """Send requests of 10 tokens, several at once, until the quota is used; report how many ran."""
    database, key = Database(url), busy_key(quota)
    budget = KeyBudget(CountedTokens(database), KeyHolds(database, "tokens"))
    work = Work(prompts=1, sequences=1, prompt_tokens=3, max_tokens=7, longest_answer=100)
    done = 0

    async def client() -> None:
        nonlocal done
        while True:
            try:
                async with budget.reserve(key, work) as max_tokens:
                    budget.spend(key, answer_of(7 if max_tokens is None else max_tokens))
                    done += 1
            except QuotaError:
                return
            except RateLimitError:
                await asyncio.sleep(0.01)

    async def run() -> None:
        # Both send at once, whichever started first.
        Path(report).with_suffix(".ready").touch()
        while len(list(Path(report).parent.glob("*.ready"))) < 2:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(client() for _ in range(at_once)))

    asyncio.run(run())
    Path(report).write_text(json.dumps(done))


def answer_of(tokens: int) -> Spent:
    return Spent(model="m", prompt_tokens=3, completion_tokens=tokens, total_tokens=3 + tokens)


def take_and_keep(url: str, most: int, tries: int, report: str) -> None:
    """Take one stream after the other and keep them; report how many there were."""
    holds = KeyHolds(Database(url), "streams")
    taken = [holds.take("key_busy", lambda held, _: int(held < most))[1] for _ in range(tries)]
    Path(report).write_text(json.dumps(sum(taken)))
