"""Where a Chalk environment is, for feature sets that it computes."""

from __future__ import annotations

from pydantic import Field, SecretStr

from sunloom.config.base import Model


class ChalkConfig(Model):
    """A Chalk environment; read where ``execution.engine`` is ``chalk``."""

    project_id: str | None = None
    """Said with every query (``meta``), so that Chalk's logs tell who asked."""
    environment: str
    """The environment's name or id; sent as ``X-Chalk-Env-Id``."""
    api_server: str = "https://api.chalk.ai"
    """Where credentials are exchanged, and queries go unless Chalk names an engine's address."""
    client_id: SecretStr
    """A service token's id: write ``${CHALK_CLIENT_ID}``."""
    client_secret: SecretStr
    """Its secret: write ``${CHALK_CLIENT_SECRET}``."""
    timeout_s: float = Field(default=120.0, gt=0)
    """The longest wait for one answer."""
    batch_rows: int = Field(default=10_000, ge=1)
    """Rows a query at most."""
