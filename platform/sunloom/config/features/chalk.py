"""Where a Chalk environment is, for feature sets that it computes."""

from __future__ import annotations

import os

from pydantic import Field, SecretStr

from sunloom.config.loading.model import Model
from sunloom.errors import ConfigError


class ChalkConfig(Model):
    """A Chalk environment; read where ``execution.engine`` is ``chalk``."""

    project_id: str | None = None
    """Said with every query (``meta``), so that Chalk's logs tell who asked."""
    environment: str
    """The environment's name or id; sent as ``X-Chalk-Env-Id``."""
    api_server: str = "https://api.chalk.ai"
    """Where credentials are exchanged, and queries go unless Chalk names an engine's address."""
    client_id: SecretStr | None = None
    """A service token's id; ``CHALK_CLIENT_ID`` of the environment when empty."""
    client_secret: SecretStr | None = None
    """Its secret; ``CHALK_CLIENT_SECRET`` of the environment when empty."""
    timeout_s: float = Field(default=120.0, gt=0)
    """The longest wait for one answer."""
    batch_rows: int = Field(default=10_000, ge=1)
    """Rows a query at most."""

    def credentials(self) -> tuple[str, str]:
        """The token's id and secret.

        Raises:
            ConfigError: Neither the recipe nor the environment has one of them.
        """
        return (
            _secret("client_id", self.client_id),
            _secret("client_secret", self.client_secret),
        )


def _secret(key: str, written: SecretStr | None) -> str:
    variable = f"CHALK_{key.upper()}"
    value = written.get_secret_value() if written is not None else os.environ.get(variable, "")
    if not value:
        raise ConfigError(
            f"chalk.{key} is empty, and the environment variable {variable} is not set.",
            f"export {variable}=…",
            f"chalk.{key}",
        )
    return value
