"""Stores: the latest values online, tables offline."""

from sunloom.features.store.online import (
    Field,
    GroupSchema,
    OnlineStore,
    open_online_store,
)

__all__ = ["Field", "GroupSchema", "OnlineStore", "open_online_store"]
