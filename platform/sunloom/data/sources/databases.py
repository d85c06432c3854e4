"""Rows of databases (SQLAlchemy, Snowflake) as folders of Parquet files, for every executor."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import polars as pl
import sqlalchemy as sa

from sunloom.config.data import (
    BatchSource,
    DatasetSource,
    FilesSource,
    SnowflakeSource,
    parse_snowflake_url,
)
from sunloom.core.telemetry import get_logger
from sunloom.errors import DataError, DependencyError, UsageError, known_names_hint

BATCH_ROWS = 50_000
_QUERY = re.compile(r"\s*(select|with|values|\()\b", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(\w+)\}")
# A plain scheme stands for the driver that our extra installs, not for SQLAlchemy's default.
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_EXTRAS = {"postgresql": "pip install 'sunloom[postgres]'"}
_SECRETS = ("password", "private_key_file_pwd", "token")

_log = get_logger("features.sources")


def fetch_sources(source: BatchSource, paths: Mapping[str, Path]) -> None:
    """Fetch the source's tables from its database; nothing to do where they are files.

    Args:
        source: The recipe's batch source.
        paths: Namespace to the folder that its rows are written to.

    Raises:
        DataError: The database cannot be reached or refuses.
        DependencyError: Its driver is not installed.
    """
    if isinstance(source, FilesSource | DatasetSource):
        return
    for name, table in source.tables.items():
        if isinstance(source, SnowflakeSource):
            batches = snowflake_batches(source.connection_options(), table, source.batch_rows)
        else:
            batches = sql_batches(source.url.get_secret_value(), table, source.batch_rows)
        _log.info("fetched %d rows of %s", fetch(batches, paths[name]), name)


def is_address(text: str) -> bool:
    """Whether this is the address of a database rather than a file."""
    return re.match(r"[A-Za-z][\w+.-]*://", text) is not None


def fetch_address(address: str, folder: Path) -> int:
    """Fetch the table or query of an address, such as ``postgresql://user:${PASSWORD}@host/db?table=orders``.

    ``${NAME}`` stands for an environment variable, so that no secret need be written on a
    command line. ``snowflake://user@account/database/schema`` takes
    warehouse, role and the like as options.

    Raises:
        UsageError: It names no table and no query, or a variable that is not set.
        DataError: The database cannot be reached or refuses.
    """
    address = _expand_variables(address)
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    selections = [options.pop(name) for name in ("table", "query") if name in options]
    if len(selections) != 1:
        raise UsageError(
            f"The source {parts.scheme}://… names no table and no query, or both.",
            "End it with ?table=NAME or ?query=SELECT…",
            "source",
        )
    bare = address.partition("?")[0] + (f"?{urlencode(options)}" if options else "")
    if parts.scheme == "snowflake":
        return fetch(snowflake_batches(_account_options(bare), selections[0]), folder)
    return fetch(sql_batches(bare, selections[0]), folder)


def _account_options(address: str) -> dict[str, str]:
    try:
        return parse_snowflake_url(address)
    except ValueError as error:
        raise UsageError(
            f"The source snowflake://… cannot be used: {error}.", param="source"
        ) from None


def _expand_variables(address: str) -> str:
    def value(match: re.Match[str]) -> str:
        text = os.environ.get(match[1])
        if text is None:
            raise UsageError(
                f"The source names the variable {match[1]!r}, which is not set.",
                f"export {match[1]}=…",
                "source",
            )
        # The value becomes part of a URL: an @ or a / in a password must not end it.
        return quote(text, safe="")

    return _VARIABLE.sub(value, address)


def fetch(batches: Iterable[pl.DataFrame], folder: Path) -> int:
    """Write each batch as a file of the folder; an earlier folder is replaced once all are written.

    Returns:
        Number of rows.
    """
    # A name of its own, because two runs may fetch the same table at the same time.
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    rows = 0
    try:
        for number, batch in enumerate(batches):
            batch.write_parquet(partial / f"part-{number:05d}.parquet")
            rows += batch.height
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        # Renamed after a success: then there is nothing to remove, and no error to raise.
        shutil.rmtree(partial, ignore_errors=True)
    return rows


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


def snowflake_batches(
    options: Mapping[str, Any], selection: str, batch_rows: int = BATCH_ROWS
) -> Iterator[pl.DataFrame]:
    """Rows of a table or query as frames, one at least.

    Names in capitals, to which Snowflake folds unquoted ones, become lower case.

    Args:
        options: Arguments of ``snowflake.connector.connect``: account, user, password, …
        selection: A table (``ORDERS``, ``SCHEMA.ORDERS``, ``DB.SCHEMA.ORDERS``), or a ``SELECT``.
        batch_rows: The most rows of one frame.

    Raises:
        DependencyError: The connector is not installed.
        DataError: Snowflake cannot be reached or refuses; no message holds a secret.
    """
    try:
        import snowflake.connector as connector
    except ImportError as error:
        raise DependencyError(
            "A Snowflake source needs its connector.", "pip install 'sunloom[snowflake]'"
        ) from error
    query = selection if is_query(selection) else f"SELECT * FROM {_quote_table(selection)}"
    try:
        # Timestamps without a zone would be given in the zone of the account.
        parameters = {"TIMEZONE": "UTC"}
        with (
            closing(connector.connect(**options, session_parameters=parameters)) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(query)
            names = [_unfold(column.name) for column in cursor.description]
            # The first frame comes without rows, too: it has the table's columns.
            yield frame_of(names, rows := cursor.fetchmany(batch_rows))
            while rows and (rows := cursor.fetchmany(batch_rows)):
                yield frame_of(names, rows)
    except connector.errors.Error as error:
        # The driver repeats its arguments in some messages.
        text = " ".join(str(error.msg or error).split())
        for name in _SECRETS:
            if options.get(name):
                text = text.replace(str(options[name]), "***")
        raise DataError(
            f"Snowflake account {options.get('account')!r}: {text}",
            "Check account, warehouse, role, rights and the query.",
        ) from None


def _quote_table(table: str) -> str:
    """The table with each part in quotes that is no identifier; the others fold as usual."""
    return ".".join(part if part.isidentifier() else _quote(part) for part in table.split("."))


def _quote(part: str) -> str:
    inner = part.removeprefix('"').removesuffix('"')
    return '"' + inner.replace('"', '""') + '"'


def _unfold(name: str) -> str:
    return name.lower() if name == name.upper() else name


def is_query(text: str) -> bool:
    """Whether this is a query rather than a table's name."""
    return _QUERY.match(text) is not None


def frame_of(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> pl.DataFrame:
    """Rows as a frame; a column of nothing but nulls has no type yet.

    Datetimes with a zone become UTC microseconds; exact decimals become whole numbers where all
    are, else floats; identifiers and times of day become text.

    Raises:
        DataError: Two columns share a name, or a column's values have types that do not mix.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"The query gives two columns of the name {repeated[0]!r}.",
            "Name each column once, with AS.",
            repeated[0],
        )
    # No rows transpose to no columns at all, but the names must stay.
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return pl.DataFrame([_series(n, list(c)) for n, c in zip(names, columns, strict=True)])


def _series(name: str, values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    for matches, convert in _CONVERSIONS:
        if kinds and all(issubclass(kind, matches) for kind in kinds):
            values = convert(values)
            break
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    try:
        series = pl.Series(name, values)
    except (TypeError, pl.exceptions.PolarsError, OverflowError) as error:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(
            f"Column {name!r} mixes values that fit no one type ({names}).",
            "Cast it in a query.",
            name,
        ) from error
    return _to_utc(series)


def _to_utc(series: pl.Series) -> pl.Series:
    if not isinstance(series.dtype, pl.Datetime):
        return series
    series = series.dt.cast_time_unit("us")
    return series if series.dtype == pl.Datetime("us") else series.dt.convert_time_zone("UTC")


def _datetimes(values: list[Any]) -> list[Any]:
    # A driver may give each row a UTC offset of its own, which Polars does not mix.
    return [v if v is None or v.tzinfo is None else v.astimezone(UTC) for v in values]


def _decimals(values: list[Any]) -> list[Any]:
    known = [value for value in values if value is not None]
    if all(value.is_finite() and value == value.to_integral_value() for value in known):
        return [None if value is None else int(value) for value in values]
    return [None if value is None else float(value) for value in values]


def _texts(values: list[Any]) -> list[Any]:
    return [None if value is None else str(value) for value in values]


def _numbers(values: list[Any]) -> list[Any]:
    return [None if value is None else float(value) for value in values]


# The first entry that holds all of a column's types wins: bool stands before int, its base.
_CONVERSIONS: Sequence[tuple[type | tuple[type, ...], Callable[[list[Any]], list[Any]]]] = (
    (bool, list),
    (int, list),
    (datetime, _datetimes),
    (Decimal, _decimals),
    ((uuid.UUID, time), _texts),
    ((int, float, Decimal), _numbers),
)
