from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from sunloom.config import Settings
from sunloom.core.database import open_database, utc_now
from sunloom.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    QuotaError,
    RateLimitError,
    UsageError,
)
from sunloom.serving.auth.api_keys import (
    Allowance,
    KeyRecord,
    KeyRow,
    create_key,
    create_system_key,
    delegate,
    ensure_first_key,
    find_key,
    key_lifetime,
    list_keys,
    revoke_key,
)
from sunloom.serving.auth.failed_attempts import FailedAttempts
from sunloom.serving.auth.middleware import KeyAdmission
from sunloom.serving.auth.rate_limits import RateLimiter, Spent, Taken, UsageRow
from sunloom.serving.error_body import problem_of
from sunloom.serving.metrics.request_metrics import RequestMetrics


def quick(settings: Settings, **keys: object) -> Settings:
    serving = settings.serving
    changed = serving.model_copy(update={"keys": serving.keys.model_copy(update=keys)})
    return settings.model_copy(update={"serving": changed})


def spent(tokens: int) -> Spent:
    return Spent(model="m@1", prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)


def charge(limiter: RateLimiter, key: KeyRecord, at: float) -> None:
    """Take one request, with a lease where one is needed, as the middleware does."""
    while limiter.take(key, at=at) is Taken.NOTHING:
        limiter.lease(key, at=at)


def admitted(limiter: RateLimiter, key: KeyRecord, asked: int, at: float) -> int:
    """How many of so many requests are admitted."""
    for number in range(asked):
        try:
            charge(limiter, key, at)
        except RateLimitError:
            return number
    return asked


def test_only_a_hash_is_stored(settings: Settings) -> None:
    secret, record = create_key(settings, ["llm"], "acme", "30d")
    assert find_key(settings, secret) == record
    assert find_key(settings, secret + "x") is None
    assert record.shown == secret[:9] + "…"
    assert record.expires_at is not None
    assert timedelta(days=29) < record.expires_at - utc_now() <= timedelta(days=30)
    with open_database(settings).session() as session:
        row = session.get_one(KeyRow, record.id)
        assert secret not in str(vars(row))
        assert len(row.digest) == 64


def test_unknown_scopes_and_durations_are_named(settings: Settings) -> None:
    with pytest.raises(UsageError, match="modles"):
        create_key(settings, ["modles"])
    with pytest.raises(UsageError, match="needs a scope"):
        create_key(settings, [])
    with pytest.raises(UsageError, match="soon"):
        create_key(settings, ["llm"], expires="soon")
    with pytest.raises(UsageError, match="0d"):
        create_key(settings, ["llm"], expires="0d")
    assert key_lifetime("2w") == timedelta(weeks=2)
    assert key_lifetime("1.5h") == timedelta(minutes=90)
    assert key_lifetime(None) is None


def test_revoking_a_key_revokes_its_delegated_keys(settings: Settings) -> None:
    _, parent = create_key(settings, ["llm", "features"])
    secret, child = delegate(settings, parent, ["features"])
    assert child.account == parent.id
    assert child.expires_at is not None
    revoke_key(settings, parent.id)
    found = find_key(settings, secret)
    assert found is not None
    assert not found.is_valid(utc_now())
    with pytest.raises(NotFoundError, match="key_none"):
        revoke_key(settings, "key_none")


def test_a_delegated_key_ends_with_its_parent(settings: Settings) -> None:
    _, parent = create_key(settings, ["llm"], expires="5m")
    _, child = delegate(settings, parent, ["llm"], expires="1h")
    assert child.expires_at == parent.expires_at
    _, grandchild = delegate(settings, child, ["llm"], expires="2h")
    assert grandchild.expires_at == parent.expires_at
    _, short = delegate(settings, parent, ["llm"], expires="1m")
    assert short.expires_at is not None
    assert parent.expires_at is not None
    assert short.expires_at < parent.expires_at


def test_a_key_cannot_delegate_scopes_that_it_lacks(settings: Settings) -> None:
    _, parent = create_key(settings, ["llm"])
    with pytest.raises(PermissionDeniedError, match="train"):
        delegate(settings, parent, ["llm", "train"])
    _, admin = create_key(settings, ["admin"])
    assert delegate(settings, admin, ["train"])[1].scopes == ("train",)


def test_first_key_in_development_only(settings: Settings) -> None:
    assert ensure_first_key(settings) is None
    development = settings.model_copy(update={"environment": "development"})
    create_system_key(development, ["llm"], timedelta(minutes=1))
    made = ensure_first_key(development)
    assert made is not None
    assert made[1].may("train")
    assert ensure_first_key(development) is None
    assert [key.id for key in list_keys(development)] == [made[1].id]
    revoke_key(development, made[1].id)
    again = ensure_first_key(development)
    assert again is not None, "without a usable key nobody could enter"
    assert again[1].id != made[1].id


def test_unknown_expired_and_revoked_keys_are_rejected(settings: Settings) -> None:
    settings = quick(settings, cache_s=0.0)
    good, record = create_key(settings, ["features"])
    old, _ = create_key(settings, ["features"], expires=timedelta(microseconds=1))

    async def walk() -> None:
        admission = KeyAdmission(settings, RequestMetrics(open_database(settings), "test"))
        assert await admission.admit(good, "features") == record
        for secret in (None, "sl-unknown", old):
            with pytest.raises(AuthenticationError):
                await admission.admit(secret, "features")
        with pytest.raises(PermissionDeniedError, match="'llm'"):
            await admission.admit(good, "llm")
        revoke_key(settings, record.id)
        with pytest.raises(AuthenticationError):
            await admission.admit(good, "features")

    asyncio.run(walk())


def test_the_limit_holds_over_processes(settings: Settings) -> None:
    _, key = create_key(settings, ["llm"], allowance=Allowance(5))
    first, second = RateLimiter(open_database(settings)), RateLimiter(open_database(settings))
    for _ in range(3):
        charge(first, key, at=60.0)
    charge(second, key, at=61.0)
    charge(second, key, at=61.0)
    with pytest.raises(RateLimitError, match="5 requests a minute") as refused:
        charge(second, key, at=101.5)
    assert refused.value.retry_after_s == 19
    assert problem_of(refused.value).code == "rate_limited"
    charge(second, key, at=120.0)


@pytest.mark.parametrize("limit", [5, 60, 1200])
def test_the_limit_is_exact_over_processes_at_once(settings: Settings, limit: int) -> None:
    """Five processes, each with its own database connection, ask for twice the limit at once."""
    _, key = create_key(settings, ["llm"], allowance=Allowance(limit))
    limiters = [RateLimiter(open_database(settings)) for _ in range(5)]
    asked = [limit * 2 // 5 + 1] * 5
    with ThreadPoolExecutor(5) as pool:
        counts = list(
            pool.map(
                lambda args: admitted(*args, at=60.0), zip(limiters, [key] * 5, asked, strict=True)
            )
        )
    assert 0.9 * limit <= sum(counts) <= limit


def test_an_idle_process_gives_its_lease_back(settings: Settings) -> None:
    _, key = create_key(settings, ["llm"], allowance=Allowance(1000))
    idle, busy = RateLimiter(open_database(settings)), RateLimiter(open_database(settings))
    charge(idle, key, at=60.0)
    assert idle.remaining_of(key).requests == 999
    with open_database(settings).session() as session:
        assert session.get_one(UsageRow, (key.id, 1)).requests == 20
    assert idle.sync(), "it used its lease a moment ago"
    assert not idle.sync()
    assert admitted(busy, key, 2000, at=60.0) == 999
    with open_database(settings).session() as session:
        assert session.get_one(UsageRow, (key.id, 1)).requests == 1000
        assert session.get_one(UsageRow, (key.id, -1)).requests == 1


def test_the_hot_path_writes_seldom(settings: Settings) -> None:
    _, key = create_key(settings, ["llm"], allowance=Allowance(6000))
    limiter, leases = RateLimiter(open_database(settings)), 0
    for _ in range(5000):
        while limiter.take(key, at=60.0) is Taken.NOTHING:
            limiter.lease(key, at=60.0)
            leases += 1
    # A fiftieth of what is left, again and again: ln(6) times 50.
    assert 80 <= leases <= 100


def test_a_burst_over_apps_is_admitted_up_to_the_limit(settings: Settings) -> None:
    """80 requests at once over four apps with a limit of 5, through the real admission."""
    secret, key = create_key(settings, ["llm"], allowance=Allowance(5))

    async def walk() -> list[object]:
        apps = [
            KeyAdmission(settings, RequestMetrics(open_database(settings), name)) for name in "abcd"
        ]
        requests = [apps[number % 4].admit(secret, "llm") for number in range(80)]
        return await asyncio.gather(*requests, return_exceptions=True)

    answers = asyncio.run(walk())
    assert answers.count(key) == 5
    assert sum(isinstance(answer, RateLimitError) for answer in answers) == 75


def test_delegated_keys_spend_their_parents_limit(settings: Settings) -> None:
    _, parent = create_key(settings, ["llm"], allowance=Allowance(2))
    _, child = delegate(settings, parent, ["llm"])
    meter = RateLimiter(open_database(settings))
    charge(meter, parent, at=0.0)
    charge(meter, child, at=0.0)
    with pytest.raises(RateLimitError):
        charge(meter, parent, at=0.0)


def test_the_token_quota_counts_all_minutes(settings: Settings) -> None:
    _, key = create_key(settings, ["llm"], allowance=Allowance(6000, token_quota=100))
    meter = RateLimiter(open_database(settings))
    charge(meter, key, at=0.0)
    meter.spend(key, spent(60))
    assert meter.remaining_of(key).tokens == 40
    meter.sync()
    charge(meter, key, at=600.0)
    meter.spend(key, spent(40))
    fresh = RateLimiter(open_database(settings))
    meter.sync()
    with pytest.raises(QuotaError, match="quota of 100") as refused:
        charge(fresh, key, at=660.0)
    assert refused.value.retry_after_s is None
    problem = problem_of(refused.value)
    assert (problem.status, problem.code) == (429, "insufficient_quota")
    # By these the official client neither waits nor asks again.
    assert dict(problem.headers) == {
        b"x-should-retry": b"false",
        b"x-ratelimit-remaining-tokens": b"0",
    }


def test_the_limits_are_told_in_headers(settings: Settings) -> None:
    secret, key = create_key(settings, ["llm"], allowance=Allowance(60, token_quota=100))

    async def walk() -> dict[bytes, bytes]:
        admission = KeyAdmission(settings, RequestMetrics(open_database(settings), "test"))
        await admission.admit(secret, "llm")
        admission.spend(key, spent(30))
        return dict(admission.limit_headers(key))

    assert asyncio.run(walk()) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"70",
    }


def test_unknown_keys_are_not_kept(settings: Settings) -> None:
    secret, _ = create_key(settings, ["llm"])
    expired, _ = create_key(settings, ["llm"], expires=timedelta(microseconds=1))
    guesses = [secret[:-1] + "x" * (secret[-1] != "x"), "sl-" + "k" * 40_000, expired]

    async def walk() -> int:
        admission = KeyAdmission(settings, RequestMetrics(open_database(settings), "test"))
        for guess in guesses:
            with pytest.raises(AuthenticationError):
                await admission.admit(guess, "llm")
        await admission.admit(secret, "llm")
        return len(admission._keys._entries)

    assert asyncio.run(walk()) == 1


def test_repeated_failures_of_a_source_are_answered_late() -> None:
    now = 0.0
    attempts = FailedAttempts(lambda: now)
    assert [attempts.count("a") for _ in range(20)] == [0.0] * 20
    assert [attempts.count("a") for _ in range(100)][-1] == 2.0
    assert attempts.count("b") == 0.0
    now = 40.0
    assert attempts.count("a") == 0.0
    for number in range(2_000):
        attempts.count(str(number))
    assert len(attempts._attempts) == 1_000


def test_a_revoked_or_expired_key_delegates_nothing(settings: Settings) -> None:
    _, parent = create_key(settings, ["llm"])
    _, child = delegate(settings, parent, ["llm"])
    revoke_key(settings, parent.id)
    # The records are those of requests that began before.
    for record in (parent, child):
        assert record.is_valid(utc_now())
        with pytest.raises(AuthenticationError, match=record.id):
            delegate(settings, record, ["llm"])
    _, expired = create_key(settings, ["llm"], expires=timedelta(microseconds=1))
    with pytest.raises(AuthenticationError, match="expired"):
        delegate(settings, expired, ["llm"])


def test_a_key_within_a_chain_takes_its_own_children_along(settings: Settings) -> None:
    _, root = create_key(settings, ["llm"])
    _, middle = delegate(settings, root, ["llm"])
    secret, _ = delegate(settings, middle, ["llm"])
    beside, _ = delegate(settings, root, ["llm"])
    revoke_key(settings, middle.id)
    leaf, other = find_key(settings, secret), find_key(settings, beside)
    assert leaf is not None
    assert other is not None
    assert not leaf.is_valid(utc_now())
    assert leaf.account == root.id
    assert other.is_valid(utc_now())


def test_a_child_made_while_its_parent_was_revoked_is_not_valid(settings: Settings) -> None:
    _, parent = create_key(settings, ["llm"])
    secret, child = delegate(settings, parent, ["llm"])
    with open_database(settings).session() as session:
        # The revocation did not see the child, whose transaction ended later.
        session.get_one(KeyRow, parent.id).revoked_at = utc_now()
        assert session.get_one(KeyRow, child.id).revoked_at is None
    found = find_key(settings, secret)
    assert found is not None
    assert not found.is_valid(utc_now())
