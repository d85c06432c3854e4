"""The gateway and the apps behind it."""

from __future__ import annotations

from pydantic import Field

from sunloom.config.base import Model


class ServingConfig(Model):
    """One port for models, features, agents and tabular models."""

    host: str = "127.0.0.1"
    """Interface of the gateway."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port of the gateway; 0 picks a free one."""
