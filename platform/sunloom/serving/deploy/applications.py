"""Serve applications: their builders and the replica of an app that is an ASGI app and no more.

The builders are for ``sunloom serve`` and for Serve's own configuration files.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, Field

from sunloom.config import Settings, load_config
from sunloom.config.loading.model import dump_with_secrets
from sunloom.core.database import open_database
from sunloom.core.processes import lower_priority
from sunloom.core.telemetry import configure_logging
from sunloom.errors import NotFoundError
from sunloom.serving.app_table import APPS
from sunloom.serving.apps.llm.model_resolver import BaseLanguageModel, find_bases
from sunloom.serving.asgi import ASGIApp
from sunloom.serving.auth.middleware import (
    GatewayMiddleware,
    KeyAdmission,
    set_process_admission,
)
from sunloom.serving.deploy.environment import check_closed, serving_environment
from sunloom.serving.deploy.fast_path import register_fast_path
from sunloom.serving.metrics.request_metrics import RequestMetrics

# glibc keeps what bodies of megabytes took, unless it may map each of them apart: 52 MB after 146
# bodies beyond the limit, four at once. Trimming at its default would shrink the heap with nearly
# every request.
_RETURN_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(128 << 10),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 20),
    "MALLOC_ARENA_MAX": "2",
}


class AppArgs(BaseModel, extra="forbid"):
    """Which configuration an app reads."""

    env: str | None = None
    """development, test, staging or production."""
    sets: list[str] = Field(default_factory=list)
    """``a.b=c`` assignments, the last word."""


def build_app(name: str, args: AppArgs) -> Any:
    """The Serve application of one app, for ``serve_apps/``.

    Raises:
        NotFoundError: The app is ``llm`` and no base model is registered.
        ServingError: Serve was started with open ports.
    """
    settings = load_config(Settings, env=args.env, sets=args.sets).config
    check_closed(settings)
    if name != "llm":
        return build_application(name, settings)
    bases = find_bases(settings)
    if not bases:
        raise NotFoundError(f"No base model {settings.serving.llm.model!r} is registered.")
    return build_llm_application(settings, bases)


def build_application(name: str, settings: Settings) -> Any:
    """The Serve application of an app without an engine."""
    replicas = getattr(settings.serving, name).replicas
    deployment = _build_deployment(AsgiReplica, settings, _RETURN_MEMORY).options(
        name=name, num_replicas=replicas
    )
    return deployment.bind(app=name, settings=_portable_settings(settings))


def build_llm_application(settings: Settings, bases: Sequence[BaseLanguageModel]) -> Any:
    """The Serve application of the base models and their adapters."""
    from sunloom.llm.engines import engine_environment
    from sunloom.serving.apps.llm.vllm_replica import LlmReplica, placement_bundle

    config = settings.serving.llm
    deployment = _build_deployment(LlmReplica, settings, engine_environment(config)).options(
        name="llm",
        num_replicas=config.replicas,
        # ray.serve.llm starts the engine inside the replica's placement group.
        placement_group_bundles=[placement_bundle(config)],
        placement_group_strategy="PACK",
    )
    return deployment.bind(
        settings=_portable_settings(settings), bases=[vars(base) for base in bases]
    )


def _build_deployment(
    replica: type, settings: Settings, environment: Mapping[str, str] | None = None
) -> Any:
    """A Serve deployment with the options that all apps have in common."""
    from ray import serve

    env_vars = serving_environment(settings) | dict(environment or {})
    return serve.deployment(
        serve.ingress()(replica),
        # Requests must not queue behind training: the apps take what the machine has left.
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": env_vars}},
        # Serve's default is 5, and a token stream occupies one for its whole length.
        max_ongoing_requests=1000,
        # The middleware counts requests instead.
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        graceful_shutdown_timeout_s=5.0,
        health_check_period_s=5.0,
    )


def _portable_settings(settings: Settings) -> dict[str, Any]:
    """The settings as plain data whose paths hold in another working directory."""
    paths = settings.paths
    update = {"state": paths.state.absolute(), "outputs": paths.outputs.absolute()}
    absolute = settings.model_copy(update={"paths": paths.model_copy(update=update)})
    # A recipe is a Settings with more fields, which a replica's Settings would refuse.
    base = Settings(**{name: getattr(absolute, name) for name in Settings.model_fields})
    return dump_with_secrets(base)


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
        name, settings = self._name, self._settings
        configure_logging(settings)
        app = APPS[name]
        inner = load_builder(name)(settings)
        admission = KeyAdmission(settings, RequestMetrics(open_database(settings), name))
        set_process_admission(admission)
        if app.hot_routes is not None:
            # Ahead of Serve's server, which would have set the request id, the middleware sets it.
            limits = settings.serving.limits
            hot = GatewayMiddleware(inner, admission, name, limits=limits, is_hot=True)
            register_fast_path(app.prefix, hot, app.hot_routes)
        else:
            lower_priority(settings.serving.niceness)
        return GatewayMiddleware(
            inner,
            admission,
            name,
            server_sets_request_id=True,
            limits=settings.serving.limits,
        )


def load_builder(name: str) -> Callable[[Settings], ASGIApp]:
    """The builder of an app's ASGI app."""
    module, _, attribute = APPS[name].builder.partition(":")
    return cast(Callable[[Settings], ASGIApp], getattr(importlib.import_module(module), attribute))
