"""Batch sources of a feature set: files, prepared data sets, SQL databases, Snowflake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from sunloom.config.loading.model import Model


class FilesSource(Model):
    """Rows in Parquet, CSV or JSON-lines files, or folders of them."""

    type: Literal["files"] = "files"
    tables: dict[str, Path]
    """Namespace of a features class to its file or folder."""


class DatasetSource(Model):
    """Tables that ``sunloom data run`` prepared, under ``<paths.outputs>/data/<dataset>``."""

    type: Literal["dataset"] = "dataset"
    dataset: str
    """Name of the data set."""
    tables: dict[str, str]
    """Namespace of a features class to the table's name."""


class SqlSource(Model):
    """Rows of a database that SQLAlchemy speaks to; fetched anew by each run."""

    type: Literal["sql"] = "sql"
    url: SecretStr
    """``postgresql://user:${PASSWORD}@host/database``, ``sqlite:///file.db``, or another URL of
    SQLAlchemy whose driver is installed."""
    tables: dict[str, str]
    """Namespace of a features class to a table (``orders``, ``sales.orders``) or a ``SELECT``
    whose columns have the features' names."""
    batch_rows: int = Field(default=50_000, ge=1)
    """Rows held in memory at a time while fetching."""


class SnowflakeSource(Model):
    """Rows of Snowflake, through its own connector; fetched anew by each run."""

    type: Literal["snowflake"] = "snowflake"
    account: str
    """Account identifier, such as ``organization-account``."""
    user: str
    """User."""
    password: SecretStr | None = None
    """Its password, such as ``${SNOWFLAKE_PASSWORD}``."""
    private_key_file: Path | None = None
    """Its private key (PEM), instead of a password."""
    private_key_file_pwd: SecretStr | None = None
    """Passphrase of the private key."""
    role: str | None = None
    """Role; the user's default when empty."""
    warehouse: str | None = None
    """Warehouse; the user's default when empty."""
    database: str | None = None
    """Database of tables that name none."""
    # `schema` would shadow a method of pydantic's BaseModel.
    schema_name: str | None = Field(default=None, alias="schema")
    """Schema of tables that name none."""
    tables: dict[str, str]
    """Namespace of a features class to a table or a ``SELECT``. Names in capitals become lower
    case."""
    batch_rows: int = Field(default=50_000, ge=1)
    """Rows held in memory at a time while fetching."""


BatchSource = Annotated[
    FilesSource | DatasetSource | SqlSource | SnowflakeSource, Field(discriminator="type")
]
