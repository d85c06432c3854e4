"""Settings of the endpoints that alerts are sent to."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from sunloom.config.loading.model import Model

Severity = Literal["info", "warning", "critical"]
"""Severity of an alert."""


class WebhookConfig(Model):
    """An HTTP endpoint that takes alerts as JSON."""

    url: SecretStr
    """Address, ``http://…`` or ``https://…``; it may hold a token, so it is never printed."""
    secret: SecretStr | None = None
    """Signs each body: header ``X-Sunloom-Signature: sha256=<HMAC of the body>``."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Further headers, such as ``Authorization``."""
    min_severity: Severity = "info"
    """Alerts below it are not sent here."""
    # Alerts are sent by the run that raises them, which waits for the receiver.
    timeout_s: float = Field(default=5.0, gt=0, le=60)
    """Longest wait for an answer."""
    attempts: int = Field(default=3, ge=1, le=10)
    """Tries at once; what still fails is tried again whenever alerts are next sent."""

    @field_validator("url")
    @classmethod
    def _http(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the url of a webhook begins with http:// or https://")
        return value
