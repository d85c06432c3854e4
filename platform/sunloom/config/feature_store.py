"""Where feature values are kept: the online store and the offline store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from sunloom.config.loading.model import Model


class EmbeddedOnline(Model):
    """LMDB in ``<paths.state>/online``: every process of one machine reads and writes it."""

    # No path of its own: the gateway finds the store by the settings alone.
    type: Literal["embedded"] = "embedded"


class RedisOnline(Model):
    """A Redis server that every machine can reach."""

    type: Literal["redis"] = "redis"
    url: str = "redis://127.0.0.1:6379/0"
    """``redis://host:port/db``, ``rediss://…`` (TLS) or ``unix:///path.sock?db=0``; options of
    redis-py may follow after ``?``."""
    username: str | None = None
    """User of the server, where it has several."""
    password: SecretStr | None = None
    """Its password, such as ``${REDIS_PASSWORD}``."""
    prefix: str = Field(default="sunloom:", min_length=1)
    """Prefix of every key, so that two stores may share a server."""
    timeout_s: float = Field(default=5.0, gt=0)
    """How long to wait for a connection or a response, seconds."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        scheme, _, rest = url.partition("://")
        if scheme not in ("redis", "rediss", "unix"):
            raise ValueError("begins with redis://, rediss:// or unix://")
        # The URL is printed and saved in clear; only `password` is masked.
        if "@" in rest.split("?", 1)[0] or "password=" in rest:
            raise ValueError("contains user or password: name them in `username` and `password`")
        return url


OnlineBackend = Annotated[EmbeddedOnline | RedisOnline, Field(discriminator="type")]


class StoresConfig(Model):
    """Where feature values are kept."""

    online: OnlineBackend = EmbeddedOnline()
    """The latest values. Serving reads it too: name it in ``conf/base.yaml`` or ``conf/env/``."""
    offline: str | None = None
    """Every version of materialised rows: a folder or an fsspec URI (``s3://…``, ``gs://…``);
    ``<paths.outputs>/offline`` when empty."""
