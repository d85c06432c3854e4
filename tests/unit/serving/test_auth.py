from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from sunloom.config import Settings
from sunloom.core.database import open_database, utc_now
from sunloom.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UsageError,
)
from sunloom.serving.auth.api_keys import (
    Allowance,
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
from sunloom.serving.auth.middleware import KeyAdmission
from sunloom.serving.auth.rate_limits import RateLimiter, Spent
from sunloom.serving.metrics.request_metrics import RequestMetrics


def quick(settings: Settings, **keys: object) -> Settings:
    serving = settings.serving
    changed = serving.model_copy(update={"keys": serving.keys.model_copy(update=keys)})
    return settings.model_copy(update={"serving": changed})


def spent(tokens: int) -> Spent:
    return Spent(model="m@1", prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)


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
        first.charge(key, at=60.0)
    first.sync(at=60.0)
    second.sync(key.account, at=60.0)
    second.charge(key, at=61.0)
    second.charge(key, at=61.0)
    with pytest.raises(RateLimitError, match="5 requests a minute"):
        second.charge(key, at=62.0)
    second.charge(key, at=120.0)


def test_delegated_keys_spend_their_parents_limit(settings: Settings) -> None:
    _, parent = create_key(settings, ["llm"], allowance=Allowance(2))
    _, child = delegate(settings, parent, ["llm"])
    meter = RateLimiter(open_database(settings))
    meter.charge(parent, at=0.0)
    meter.charge(child, at=0.0)
    with pytest.raises(RateLimitError):
        meter.charge(parent, at=0.0)


def test_the_token_quota_counts_all_minutes(settings: Settings) -> None:
    _, key = create_key(settings, ["llm"], allowance=Allowance(6000, token_quota=100))
    meter = RateLimiter(open_database(settings))
    meter.charge(key, at=0.0)
    meter.spend(key, spent(60))
    meter.sync(at=0.0)
    meter.charge(key, at=600.0)
    meter.spend(key, spent(40))
    fresh = RateLimiter(open_database(settings))
    meter.sync(at=600.0)
    fresh.sync(key.account, at=660.0)
    with pytest.raises(RateLimitError, match="quota of 100"):
        fresh.charge(key, at=660.0)
