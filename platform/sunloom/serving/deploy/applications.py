"""Builders of Serve applications, for ``sunloom serve`` and for Serve's own configuration files."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from sunloom.config import Settings, load_config
from sunloom.config.loading.dump import dump_with_secrets
from sunloom.errors import NotFoundError
from sunloom.serving.apps.llm.model_resolver import BaseLanguageModel, find_base
from sunloom.serving.deploy.environment import serving_environment


class AppArgs(BaseModel, extra="forbid"):
    """Which configuration an app reads."""

    env: str | None = None
    """development, test, staging or production."""
    sets: list[str] = Field(default_factory=list)
    """``a.b=c`` assignments, the last word."""

    def settings(self) -> Settings:
        """The settings through all layers."""
        return load_config(Settings, env=self.env, sets=self.sets).config


def build_app(name: str, args: AppArgs) -> Any:
    """The Serve application of one app, for ``serve_apps/``.

    Raises:
        NotFoundError: The app is ``llm`` and no base model is registered.
    """
    settings = args.settings()
    if name != "llm":
        return build_application(name, settings)
    base = find_base(settings)
    if base is None:
        raise NotFoundError(f"No base model {settings.serving.llm.model!r} is registered.")
    return build_llm_application(settings, base)


def build_application(name: str, settings: Settings) -> Any:
    """The Serve application of an app without an engine."""
    from sunloom.serving.deploy.replica import AsgiReplica

    replicas = getattr(settings.serving, name).replicas
    deployment = _build_deployment(AsgiReplica, settings).options(name=name, num_replicas=replicas)
    return deployment.bind(app=name, settings=_portable_settings(settings))


def build_llm_application(settings: Settings, base: BaseLanguageModel) -> Any:
    """The Serve application of one base model and its adapters."""
    from sunloom.serving.apps.llm.app import LlmReplica
    from sunloom.serving.apps.llm.vllm_engine import engine_environment, placement_bundle

    config = settings.serving.llm
    deployment = _build_deployment(LlmReplica, settings, engine_environment(config)).options(
        name="llm",
        num_replicas=config.replicas,
        # ray.serve.llm starts the engine inside the replica's placement group.
        placement_group_bundles=[placement_bundle(config)],
        placement_group_strategy="PACK",
    )
    return deployment.bind(settings=_portable_settings(settings), base=vars(base))


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
