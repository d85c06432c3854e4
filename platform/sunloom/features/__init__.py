"""Feature definitions, point-in-time computation and stores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
