"""Tables and queries of any database that SQLAlchemy supports, in batches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import sqlalchemy as sa

from sunloom.data.sources.driver_rows import BATCH_ROWS, frame_of, is_query
from sunloom.errors import DataError, DependencyError, UsageError, known_names_hint

# A plain scheme stands for the driver that our extra installs, not for SQLAlchemy's default.
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_EXTRAS = {"postgresql": "pip install 'sunloom[postgres]'"}


def sql_batches(url: str, selection: str, batch_rows: int = BATCH_ROWS) -> Iterator[pl.DataFrame]:
    """Rows of a table or query as frames, one at least; never all at once in memory.

    Args:
        url: ``postgresql://user:…@host/db``, ``sqlite:///file.db``, or any URL of SQLAlchemy.
        selection: A table (``orders`` or ``sales.orders``), or a ``SELECT``.
        batch_rows: The most rows of one frame.

    Raises:
        UsageError: The URL is not valid.
        DependencyError: The database's driver is not installed.
        DataError: The database cannot be reached or refuses; no message holds the password.
    """
    parsed = _parse_url(url)
    engine = _create_engine(parsed)
    try:
        with _data_errors(parsed), engine.connect() as connection:
            _check_table(connection, selection, parsed)
            # A server-side cursor; without it most drivers fetch the whole result at once.
            streaming = connection.execution_options(stream_results=True, yield_per=batch_rows)
            result = streaming.execute(_statement(selection))
            names = list(result.keys())
            empty = True
            for part in result.partitions(batch_rows):
                empty = False
                yield frame_of(names, part)
            if empty:
                yield frame_of(names, [])
    finally:
        engine.dispose()


def _parse_url(url: str) -> sa.URL:
    scheme, separator, rest = url.partition("://")
    try:
        return sa.make_url(_DRIVERS.get(scheme, scheme) + separator + rest)
    except (sa.exc.ArgumentError, ValueError):
        # Their messages may repeat the URL, password and all.
        raise UsageError(
            f"The database's URL ({scheme[:20]}…) is not one that SQLAlchemy reads.",
            "Such as postgresql://user:${PASSWORD}@host/database.",
            "url",
        ) from None


def _create_engine(url: sa.URL) -> sa.Engine:
    try:
        # No pool: a source is read once a run. hide_parameters keeps values out of error texts.
        return sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    except (sa.exc.NoSuchModuleError, ImportError) as error:
        install = _EXTRAS.get(url.get_backend_name(), "Install the driver that the URL names.")
        raise DependencyError(
            f"{url.drivername} is not installed here: {error}", install
        ) from error


def _statement(selection: str) -> sa.Executable:
    if is_query(selection):
        # SQLAlchemy would take :name for a parameter; a query has none.
        return sa.text(re.sub(r"(?<!:):(?=\w)", r"\\:", selection))
    schema, name = _split_schema(selection)
    return sa.select(sa.literal_column("*")).select_from(sa.table(name, schema=schema))


def _split_schema(table: str) -> tuple[str | None, str]:
    schema, _, name = table.rpartition(".")
    return schema or None, name


def _check_table(connection: sa.Connection, selection: str, url: sa.URL) -> None:
    if is_query(selection):
        return
    schema, name = _split_schema(selection)
    inspector = sa.inspect(connection)
    # Checked first, because the database's own error would not say which tables there are.
    if not inspector.has_table(name, schema=schema):
        known = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
        where = f"schema {schema!r} of " if schema else ""
        raise DataError(
            f"There is no table {name!r} in {where}{_address(url)}.",
            known_names_hint(name, known),
            "table",
        )


@contextmanager
def _data_errors(url: sa.URL) -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause: Any = getattr(error, "orig", None) or error
        text = " ".join(str(cause).split())
        if url.password:
            text = text.replace(str(url.password), "***")
        # "from None": the chained error would print the address with its password again.
        raise DataError(
            f"{_address(url)}: {text}", "Check the address, the rights and the query."
        ) from None


def _address(url: sa.URL) -> str:
    """The address without user, password and options."""
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host or ''}{port}/{url.database or ''}"
