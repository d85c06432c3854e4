"""What ``serve_apps/`` calls: an app from the arguments of a Serve configuration file."""

from typing import Any

from pydantic import BaseModel, Field

from sunloom.config import Settings, load_config
from sunloom.errors import NotFoundError


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
    """The Serve application of one app.

    Raises:
        NotFoundError: The language app is asked for and no base model is registered.
    """
    settings = args.settings()
    if name != "llm":
        from sunloom.serving.deploy.replica import build_application

        return build_application(name, settings, getattr(settings.serving, name).replicas)
    from sunloom.serving.apps.llm.app import build_llm_application
    from sunloom.serving.apps.llm.models import find_base

    base = find_base(settings)
    if base is None:
        raise NotFoundError(f"No base model {settings.serving.llm.model!r} is registered.")
    return build_llm_application(settings, base)
