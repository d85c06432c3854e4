"""Serve replica of an app that is an ASGI app and no more."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from sunloom.config import Settings
from sunloom.serving.app_table import APPS
from sunloom.serving.asgi.types import ASGIApp
from sunloom.serving.auth.middleware import GatewayMiddleware
from sunloom.serving.deploy.fast_path import register_fast_path


class AsgiReplica:
    """A replica of one app.

    Args:
        app: A key of ``APPS``.
        settings: The settings as plain data.
    """

    def __init__(self, app: str, settings: Mapping[str, Any]) -> None:
        self._name = app
        self._settings = Settings.model_validate(settings)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve once the replica has started."""
        return build_guarded(self._name, self._settings)


def build_guarded(name: str, settings: Settings) -> ASGIApp:
    """An app behind its middleware, to run under Ray Serve."""
    # Only in a replica: the driver imports this module, too, to name the class.
    from sunloom.core.database import open_database
    from sunloom.core.telemetry import configure_logging
    from sunloom.serving.auth.admission import KeyAdmission
    from sunloom.serving.metrics.request_metrics import RequestMetrics

    configure_logging(settings)
    app = APPS[name]
    inner = load_builder(name)(settings)
    admission = KeyAdmission(settings, RequestMetrics(open_database(settings), name))
    if app.hot_routes is not None:
        # Ahead of Serve's server, which would have set the request id, the middleware sets it.
        hot = GatewayMiddleware(inner, admission, name)
        register_fast_path(app.prefix, hot, app.hot_routes)
    return GatewayMiddleware(inner, admission, name, server_sets_request_id=True)


def load_builder(name: str) -> Callable[[Settings], ASGIApp]:
    """The builder of an app's ASGI app."""
    module, _, attribute = APPS[name].builder.partition(":")
    return cast(Callable[[Settings], ASGIApp], getattr(importlib.import_module(module), attribute))
