"""Which scope a route needs; the longest matching prefix wins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

PUBLIC = frozenset({"/healthz", "/readyz"})
"""Answered to everyone."""

BROWSED = frozenset({"/docs", "/openapi.json"})
"""Also open to a browser's password prompt: any user name, the key as password."""


@dataclass(frozen=True)
class Rule:
    """A prefix, the scope that it needs, and the method if only one is meant.

    Attributes:
        prefix: Path up to a slash or the end.
        scope: None lets any valid key in.
        method: None means all.
    """

    prefix: str
    scope: str | None
    method: str | None = None


RULES = (
    Rule("/v1", "llm"),
    Rule("/llm/generate", "llm"),
    Rule("/llm", "train"),
    Rule("/features", "features"),
    Rule("/predict", "models"),
    Rule("/agents", "agents"),
    # Whoever may ask a model must not therefore be able to replace it.
    Rule("/models", "train", "POST"),
    Rule("/models", "models"),
    Rule("/monitoring", "models"),
    Rule("/keys", "admin"),
    Rule("/metrics", None),
    Rule("/docs", None),
    Rule("/openapi.json", None),
    Rule("/", None),
)


@lru_cache(maxsize=4096)
def find_rule(method: str, path: str) -> Rule:
    """The rule for a request."""
    matching = [rule for rule in RULES if _matches(rule, method, path)]
    return max(matching, key=lambda rule: (len(rule.prefix), rule.method is not None))


def _matches(rule: Rule, method: str, path: str) -> bool:
    if rule.method not in (None, method):
        return False
    return rule.prefix == "/" or path == rule.prefix or path.startswith(rule.prefix + "/")
