"""One relational database behind SQLAlchemy: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import DateTime, Engine, create_engine, event, inspect
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from sunloom.config import Settings
from sunloom.core.files import make_private
from sunloom.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
# Longest wait for another process's lock on a SQLite file.
_LOCK_WAIT_S = 30


class Base(DeclarativeBase):
    """Base of every table; each room declares its own."""


class UtcDateTime(TypeDecorator[datetime]):
    """A timestamp that is UTC on both sides; SQLite alone would drop the zone."""

    impl = DateTime(timezone=True)
    # The type has no state of its own, so SQLAlchemy may cache statements that use it.
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive timestamps and store UTC."""
        if value is None:
            return None
        # astimezone would take a naive value for the machine's local time.
        if value.tzinfo is None:
            raise ValueError(f"naive timestamp {value!r}: every stored time is UTC")
        return value.astimezone(UTC)

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the stored time its zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """The present, UTC."""
    return datetime.now(UTC)


class Database:
    """An engine and its sessions.

    Args:
        url: SQLAlchemy URL. A SQLite file's folder is created.
        pool_size: Connections kept open (PostgreSQL).

    Raises:
        ConfigError: The URL cannot be parsed or its driver is not installed.
    """

    def __init__(self, url: str, pool_size: int = 5) -> None:
        self.engine = _build_engine(url, pool_size)
        # Rows are read after their session has ended; expired attributes would need it again.
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session that commits at the end and rolls back on an error."""
        with self._sessions() as session, session.begin():
            yield session

    def ensure(self, *models: type[Base]) -> None:
        """Create the tables of ``models`` where they are missing; safe from several processes."""
        tables: list[Any] = [model.__table__ for model in models]
        missing = {table.name for table in tables}
        while True:
            try:
                Base.metadata.create_all(self.engine, tables=tables)
            # SQLite reports a table that exists as an OperationalError, psycopg as a
            # ProgrammingError, or as an IntegrityError of its catalogue.
            except (IntegrityError, OperationalError, ProgrammingError):
                # Another process may have created one between the check and the statement, and not
                # yet the next: as long as there are more of them, try again.
                before = missing
                missing = before - set(inspect(self.engine).get_table_names())
                if missing == before:
                    raise
            else:
                return


_open: dict[tuple[int, str], Database] = {}
_lock = Lock()


def open_database(settings: Settings, *models: type[Base]) -> Database:
    """The process's database for these settings; opened once a process and URL.

    Args:
        settings: ``database`` gives the URL.
        models: Tables that are created where they are missing.
    """
    url = settings.database_url()
    # A forked child must not share its parent's connections.
    key = (os.getpid(), url)
    with _lock:
        if key not in _open:
            if settings.paths.state.exists():
                # One that an earlier commit made may be entered by everybody.
                make_private(settings.paths.state)
            _open[key] = Database(url, settings.database.pool_size)
        database = _open[key]
    if models:
        database.ensure(*models)
    return database


def copy_row(row: Base, record: type[Record], **replaced: Any) -> Record:
    """A table's row as a record of plain values, which outlives the session.

    Args:
        row: A row with a column for each of the record's fields.
        record: A dataclass.
        replaced: Fields that are not the column of their name, with their values.
    """
    names = {field.name for field in fields(record)} - replaced.keys()
    return record(**{name: getattr(row, name) for name in names}, **replaced)


def _build_engine(url: str, pool_size: int) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite_engine(url, parsed.database)
        # A pooled connection may have ended with a restart of the server.
        return create_engine(url, pool_size=pool_size, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"database.url cannot be used: {type(error).__name__}.",
            "Use sqlite:///file.db or postgresql+psycopg://user:password@host/name "
            "(pip install 'sunloom[postgres]').",
            "database.url",
        ) from error


def _prepare_file(path: Path) -> None:
    """Make the file, or tighten one that was made with a wider mode: it holds keys and prompts."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # SQLite gives its journals the mode of the file.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            if file.exists():
                make_private(file)
    except OSError:
        # SQLite reports a file that cannot be opened with its own reason.
        return


def _sqlite_engine(url: str, path: str | None) -> Engine:
    # What begins with "file:" is a URI of SQLite's, such as that of a database in memory.
    if path and path != ":memory:" and not path.startswith("file:"):
        _prepare_file(Path(path))
    engine = create_engine(url, connect_args={"timeout": _LOCK_WAIT_S})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        # SQLite keeps these per connection, all but journal_mode, which is stored in the file.
        cursor.execute(f"PRAGMA busy_timeout={_LOCK_WAIT_S * 1000}")
        _use_write_ahead_log(cursor)
        # In WAL mode a power failure may lose the last commits but cannot corrupt the file.
        cursor.execute("PRAGMA synchronous=NORMAL")
        # PostgreSQL always enforces foreign keys, SQLite only on request.
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Switch a file to the write-ahead log, with which readers do not block the writer.

    SQLite does not wait here as it does for its other locks: processes that open a new file at the
    same time would fail.
    """
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
