"""Table of the apps behind the gateway: name, route prefix, scope, builder, hot routes, probe.

Deployment, scopes, readiness, the merged OpenAPI document and the fast path all read this table:
a new app is its module under ``serving/apps``, a line here, and its part of ``config.serving``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class App:
    """One Serve application.

    Attributes:
        name: Name of the Serve application, and of its part of ``serving`` in the settings.
        prefix: Route prefix under which HAProxy sends requests to it.
        scope: Scope that a key needs for its routes; None lets any valid key in.
        builder: ``module:function`` that builds the ASGI app from the settings. A string, because
            the driver must not import what only a replica needs.
        hot_routes: None without a fast path; else the app's GET requests are answered ahead of
            Serve's own layers, and so are these paths, which read by another method.
        probe: Route that ``/readyz`` requests; None for the app that answers ``/readyz`` itself.
    """

    name: str
    prefix: str
    scope: str | None
    builder: str
    hot_routes: frozenset[str] | None = None
    probe: str | None

    @property
    def openapi_path(self) -> str:
        """Route of the app's own OpenAPI document."""
        return f"{self.prefix.rstrip('/')}/openapi.json"


# In the order in which they are deployed: the engine of the language app takes longest to start,
# and the gateway is ready only when the others are.
APPS: Mapping[str, App] = {
    app.name: app
    for app in (
        App(
            name="llm",
            prefix="/v1",
            scope="llm",
            # Not a function but the replica's class: the engine starts before the app exists.
            builder="sunloom.serving.apps.llm.vllm_replica:LlmReplica",
            probe="/v1/models",
        ),
        App(
            name="features",
            prefix="/features",
            scope="features",
            builder="sunloom.serving.apps.features.app:build_features_app",
            hot_routes=frozenset({"/features/batch"}),
            probe="/features",
        ),
        App(
            name="tabular",
            prefix="/predict",
            scope="models",
            builder="sunloom.serving.apps.tabular:build_tabular_app",
            probe="/predict",
        ),
        App(
            name="agents",
            prefix="/agents",
            scope="agents",
            builder="sunloom.serving.apps.agents:build_agents_app",
            probe="/agents",
        ),
        App(
            name="gateway",
            prefix="/",
            scope=None,
            builder="sunloom.serving.apps.gateway.app:build_gateway_app",
            probe=None,
        ),
    )
}
"""Apps by name."""
