"""Settings of API keys."""

from __future__ import annotations

from pydantic import Field

from sunloom.config.loading.model import Model


class KeyConfig(Model):
    """Defaults of API keys, and how long processes cache them."""

    requests_per_minute: int = Field(default=6000, ge=1)
    """Default limit of a key."""
    delegated_ttl_s: int = Field(default=900, ge=1)
    """Lifetime of a key that is delegated to an agent, seconds."""
    # Without a cache, each request would query the database for its key.
    cache_s: float = Field(default=2.0, ge=0)
    """How long a process caches a key, seconds; a revoked key may be accepted for as long."""
