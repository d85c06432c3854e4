"""Opening of the online store that the settings name."""

from __future__ import annotations

from sunloom.config.feature_store import RedisOnline
from sunloom.config.settings import Settings
from sunloom.feature_store.stores.online.protocol import OnlineStore


def open_online_store(settings: Settings) -> OnlineStore:
    """The online store of these settings: ``feature_store.online`` names its kind.

    One store per place and process; calling it again is cheap.
    """
    backend = settings.feature_store.online
    # Each implementation is imported on demand: a deployment installs one client only.
    if isinstance(backend, RedisOnline):
        from sunloom.feature_store.stores.online.redis import open_redis_store

        return open_redis_store(backend)
    from sunloom.feature_store.stores.online.lmdb import open_embedded_store

    return open_embedded_store(settings.paths.state / "online")
