"""SQLite by default, PostgreSQL by URL; times are UTC."""

from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from sqlalchemy import Integer, event, text
from sqlalchemy.exc import OperationalError, StatementError
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.config import Settings
from sunloom.core.database import Base, Database, UtcDateTime, open_database
from sunloom.errors import ConfigError


class MomentRow(Base):
    __tablename__ = "test_moments"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


def test_times_come_back_in_utc(settings: Settings) -> None:
    database = open_database(settings)
    database.ensure(MomentRow)
    berlin = timezone(timedelta(hours=2))
    with database.session() as session:
        session.add(MomentRow(id=1, at=datetime(2026, 7, 1, 12, tzinfo=berlin)))
    with database.session() as session:
        row = session.get(MomentRow, 1)
        assert row is not None
        assert row.at == datetime(2026, 7, 1, 10, tzinfo=UTC)


class PlaceRow(Base):
    __tablename__ = "test_places"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)


def test_naive_times_are_refused(settings: Settings) -> None:
    database = open_database(settings)
    database.ensure(MomentRow)
    with pytest.raises(StatementError, match="naive"), database.session() as session:
        session.add(MomentRow(id=2, at=datetime(2026, 7, 1)))


def test_a_failed_session_leaves_nothing(settings: Settings) -> None:
    database = open_database(settings)
    database.ensure(MomentRow)
    with pytest.raises(RuntimeError), database.session() as session:
        session.add(MomentRow(id=3, at=datetime.now(UTC)))
        session.flush()
        raise RuntimeError
    with database.session() as session:
        assert session.get(MomentRow, 3) is None


def test_ensure_is_safe_from_many_threads(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: database.ensure(MomentRow), range(16)))
    with database.session() as session:
        assert session.execute(text("select count(*) from test_moments")).scalar() == 0


def test_ensure_goes_on_where_another_process_has_made_the_first_of_two_tables(
    tmp_path: Path,
) -> None:
    first, second = (Database(f"sqlite:///{tmp_path / 'x.db'}") for _ in range(2))
    statements: list[str] = []

    @event.listens_for(first.engine, "before_cursor_execute")
    def create_in_between(*arguments: Any) -> None:
        if "CREATE TABLE" in (statement := arguments[2]):
            statements.append(statement.split()[2])
            if len(statements) == 1:
                second.ensure(MomentRow)

    first.ensure(MomentRow, PlaceRow)
    assert statements == ["test_moments", "test_places"]
    with second.session() as session:
        for table in statements:
            assert session.execute(text(f"select count(*) from {table}")).scalar() == 0


def test_a_new_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("CREATE TABLE other (id INTEGER)")
    writer.execute("BEGIN IMMEDIATE")
    end = Timer(0.2, writer.execute, ["COMMIT"])
    end.start()
    database = Database(f"sqlite:///{path}")
    database.ensure(MomentRow)
    end.join()
    writer.close()
    with database.session() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"


def test_ensure_tells_what_keeps_it_from_creating_tables(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'x.db'}").ensure(MomentRow)
    read_only = Database(f"sqlite:///file:{tmp_path / 'x.db'}?mode=ro&uri=true")
    with pytest.raises(OperationalError, match="readonly"):
        read_only.ensure(MomentRow, PlaceRow)


def test_one_database_a_process(settings: Settings) -> None:
    assert open_database(settings) is open_database(settings)


def test_an_unusable_url_says_which_forms_work() -> None:
    with pytest.raises(ConfigError, match="sqlite:///"):
        Database("nonsense")


def test_the_database_of_an_earlier_commit_is_tightened_and_opens(settings: Settings) -> None:
    path = settings.paths.state / "sunloom.db"
    first = Database(settings.database_url())
    first.ensure(MomentRow)
    with first.session() as session:
        session.add(MomentRow(id=1, at=datetime(2026, 7, 1, tzinfo=UTC)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first.engine.dispose()
    # As an earlier commit left them.
    path.chmod(0o644)
    settings.paths.state.chmod(0o755)
    database = open_database(settings)
    with database.session() as session:
        assert session.get_one(MomentRow, 1).at.year == 2026
        files = list(settings.paths.state.iterdir())
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert {file.suffix for file in files} == {".db", ".db-wal", ".db-shm"}
    assert stat.S_IMODE(settings.paths.state.stat().st_mode) == 0o700
