"""Scopes that routes need; the longest matching prefix wins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sunloom.serving.app_table import APPS

PUBLIC = frozenset({"/healthz", "/readyz"})
"""Routes without a key."""

BROWSER_ROUTES = ("/docs", "/openapi.json", "/evaluations/page", "/evaluations/blind")
"""Also open, and what is below them, to a browser's password prompt: any user name, the key as
password. Routes among them that change anything take JSON, which no other site's page can send."""


@dataclass(frozen=True)
class ScopeRule:
    """The scope that routes under a prefix need.

    Attributes:
        prefix: Path up to a slash or the end.
        scope: None lets any valid key in.
        method: The only method that the rule is for; None for all.
    """

    prefix: str
    scope: str | None
    method: str | None = None


RULES = (
    *(ScopeRule(app.prefix, app.scope) for app in APPS.values()),
    # A key that reads features, such as an agent's, must not be able to replace them.
    ScopeRule("/features/ingest", "ingest"),
    # Routes of the gateway app.
    ScopeRule("/llm/generate", "llm"),
    ScopeRule("/llm", "train"),
    # A key that may request predictions must not therefore be able to replace the model.
    ScopeRule("/models", "train", "POST"),
    ScopeRule("/models", "models"),
    ScopeRule("/monitoring", "models"),
    ScopeRule("/evaluations", "models"),
    # Who votes does not see whose answers are whose.
    ScopeRule("/evaluations/results", "train"),
    ScopeRule("/evaluations/votes", "train"),
    ScopeRule("/keys", "admin"),
    ScopeRule("/metrics", None),
    ScopeRule("/docs", None),
    ScopeRule("/openapi.json", None),
)


# Paths come from clients: the bound keeps a scan of random paths from filling the memory.
@lru_cache(maxsize=4096)
def find_rule(method: str, path: str) -> ScopeRule:
    """The rule for a request."""
    matching = [rule for rule in RULES if _matches(rule, method, path)]
    return max(matching, key=lambda rule: (len(rule.prefix), rule.method is not None))


def takes_password(path: str) -> bool:
    """Whether a browser's password prompt may bring the key of a request."""
    return any(path == route or path.startswith(f"{route}/") for route in BROWSER_ROUTES)


def list_challenges(path: str) -> list[tuple[bytes, bytes]]:
    """Headers of an answer 401: where a browser may bring the key, it shows its prompt for it."""
    challenges = [(b"www-authenticate", b'Bearer realm="sunloom"')]
    if takes_password(path):
        # A line of its own: Chrome reads the first challenge of each line, and knows no Bearer.
        challenges.append((b"www-authenticate", b'Basic realm="sunloom"'))
    return challenges


def _matches(rule: ScopeRule, method: str, path: str) -> bool:
    if rule.method not in (None, method):
        return False
    return rule.prefix == "/" or path == rule.prefix or path.startswith(rule.prefix + "/")
