"""Feature definitions, point-in-time computation and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.features.catalogue import catalogue_of, list_features, plan_of, plan_text
    from sunloom.features.historical import historical
    from sunloom.features.materialize import materialize
    from sunloom.features.store import open_online_store

__all__ = [
    "catalogue_of",
    "historical",
    "list_features",
    "materialize",
    "open_online_store",
    "plan_of",
    "plan_text",
]

_HOMES = {
    "catalogue_of": "catalogue",
    "historical": "historical",
    "list_features": "catalogue",
    "materialize": "materialize",
    "open_online_store": "store",
    "plan_of": "catalogue",
    "plan_text": "catalogue",
}

__getattr__ = lazy_exports(__name__, _HOMES)
