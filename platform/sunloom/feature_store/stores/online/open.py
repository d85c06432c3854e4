"""Opening of the online store that the settings name."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from sunloom.config.feature_store import RedisOnline
from sunloom.config.settings import Settings
from sunloom.feature_store.stores.online.online_store import OnlineStore


def open_online_store(settings: Settings) -> OnlineStore:
    """The online store of these settings: ``feature_store.online`` names its kind.

    One store per place and process; calling it again is cheap.
    """
    backend = settings.feature_store.online
    embedded = (settings.paths.state / "online").absolute()
    place = backend if isinstance(backend, RedisOnline) else embedded
    # LMDB allows one open environment per process, and none across a fork.
    return _open_for_process(place, os.getpid())


@lru_cache(maxsize=32)
def _open_for_process(place: RedisOnline | Path, _pid: int) -> OnlineStore:
    # Each implementation is imported on demand: a deployment installs one client only.
    if isinstance(place, RedisOnline):
        from sunloom.feature_store.stores.online.redis import RedisStore

        return RedisStore(place)
    from sunloom.feature_store.stores.online.lmdb import EmbeddedStore

    return EmbeddedStore(place)
