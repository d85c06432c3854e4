"""One Serve deployment class for every app that is an ASGI app and no more."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from sunloom.config import Settings
from sunloom.config.loading.dump import dump_with_secrets
from sunloom.serving.auth.middleware import App, GatewayMiddleware
from sunloom.serving.deploy.environment import serving_environment
from sunloom.serving.deploy.fast_path import register_fast_path

APPS: Mapping[str, str] = {
    "gateway": "sunloom.serving.apps.gateway.app:build_gateway_app",
    "features": "sunloom.serving.apps.features.app:build_features_app",
    "tabular": "sunloom.serving.apps.tabular:build_tabular_app",
    "agents": "sunloom.serving.apps.agents.app:build_agents_app",
}
"""App to the function that builds its ASGI app from the settings."""

HOT: Mapping[str, tuple[str, str]] = {"features": ("/features", "/features/batch")}
"""Apps that answer reads at the door: their prefix, and what reads by POST."""


class AsgiReplica:
    """A replica of one app.

    Args:
        app: A key of ``APPS``.
        settings: The settings as plain data.
    """

    def __init__(self, app: str, settings: Mapping[str, Any]) -> None:
        self._name = app
        self._settings = Settings.model_validate(settings)

    async def __serve_build_asgi_app__(self) -> App:
        """Called by Serve once the replica stands."""
        return build_guarded(self._name, self._settings)


def build_guarded(app: str, settings: Settings) -> App:
    """An app behind its guard, to run under Ray Serve."""
    from sunloom.core.telemetry import configure_logging
    from sunloom.serving.auth.admission import KeyAdmission

    configure_logging(settings)
    inner = load_builder(APPS[app])(settings)
    gate = KeyAdmission(settings, app)
    if app in HOT:
        prefix, read = HOT[app]
        register_fast_path(prefix, GatewayMiddleware(inner, gate, app), (read,))
    return GatewayMiddleware(inner, gate, app, server_sets_request_id=True)


def load_builder(path: str) -> Callable[[Settings], App]:
    """The builder that ``module:function`` names."""
    module, _, name = path.partition(":")
    return cast(Callable[[Settings], App], getattr(importlib.import_module(module), name))


def build_application(app: str, settings: Settings, replicas: int) -> Any:
    """The Serve application of one app."""
    from ray import serve

    deployment = serve.deployment(serve.ingress()(AsgiReplica), **deployment_options(settings))
    return deployment.options(name=app, num_replicas=replicas).bind(
        app=app, settings=portable(settings)
    )


def deployment_options(settings: Settings) -> dict[str, Any]:
    """What all deployments have in common."""
    return {
        # Requests must not queue behind training: the apps take what the machine has left.
        "ray_actor_options": {
            "num_cpus": 0,
            "runtime_env": {"env_vars": serving_environment(settings)},
        },
        "max_ongoing_requests": 1000,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        "graceful_shutdown_timeout_s": 5.0,
        "health_check_period_s": 5.0,
    }


def portable(settings: Settings) -> dict[str, Any]:
    """The settings as plain data whose paths hold in another working directory."""
    paths = settings.paths
    update = {"state": paths.state.absolute(), "outputs": paths.outputs.absolute()}
    absolute = settings.model_copy(update={"paths": paths.model_copy(update=update)})
    base = Settings(**{name: getattr(absolute, name) for name in Settings.model_fields})
    return dump_with_secrets(base)
