"""The registry of model versions and of the aliases that point at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Integer, String, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.config import Settings
from sunloom.core.artifacts import ArtifactStore
from sunloom.core.database import (
    Base,
    Database,
    UtcDateTime,
    copy_row,
    open_database,
    utc_now,
)
from sunloom.core.telemetry import get_logger
from sunloom.errors import ArtifactError, NotFoundError, UsageError

PRODUCTION = "production"


class ModelVersionRow(Base):
    """One registered version of a model."""

    __tablename__ = "model_versions"

    # With the version part of the key, two processes cannot register the same number.
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    uri: Mapped[str] = mapped_column(String(2000))
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    lineage: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AliasRow(Base):
    """A movable name for a version, such as ``production``."""

    __tablename__ = "model_aliases"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    alias: Mapped[str] = mapped_column(String(60), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime)


@dataclass(frozen=True)
class ModelVersion:
    """A registered model version.

    Attributes:
        name: Model name.
        version: Counts from 1 within the name.
        kind: ``llm``, ``adapter``, ``tabular`` or a plugin's own.
        uri: Of its files.
        metrics: Of training and evaluation.
        lineage: Inputs; ``fingerprint`` identifies recipe and inputs.
        created_at: UTC.
    """

    name: str
    version: int
    kind: str
    uri: str
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    created_at: datetime

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"created_at": self.created_at.isoformat()}


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of training one model.

    Attributes:
        version: The registered model.
        promoted: Whether the gate passed and the alias points at the version.
        reused: Whether the version was registered before, from the same recipe and inputs.
        failures: Bounds of the gate that were missed, in words.
        files: Name to path of reports and plots.
    """

    version: ModelVersion
    promoted: bool
    reused: bool = False
    failures: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Any]:
        """The registered metrics, and ``promoted`` and ``reused``."""
        return {**self.version.metrics, "promoted": self.promoted, "reused": self.reused}

    @property
    def artifacts(self) -> dict[str, str]:
        """The model's reference, its URI, and the files."""
        return {"model": self.version.ref, "uri": self.version.uri, **self.files}


class ModelRegistry:
    """Model versions, their metrics and lineage, and the aliases that point at them."""

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self.store = store
        self._database = database
        database.ensure(ModelVersionRow, AliasRow)

    def register(
        self,
        name: str,
        kind: str,
        path: Path,
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Store a folder and give it the name's next version number."""
        # Files first: a version in the database always has its files.
        uri = self.store.put(path, name)
        for _ in range(20):
            try:
                with self._database.session() as session:
                    row = ModelVersionRow(
                        name=name,
                        version=_last_version(session, name) + 1,
                        kind=kind,
                        uri=uri,
                        metrics=dict(metrics or {}),
                        lineage=dict(lineage or {}),
                        created_at=utc_now(),
                    )
                    session.add(row)
                return copy_row(row, ModelVersion)
            except IntegrityError:
                continue  # another process took the number: take the next
        raise ArtifactError(f"No version number for {name!r} after 20 tries.")

    def get(self, ref: str) -> ModelVersion:
        """The version that ``name``, ``name@3`` or ``name@alias`` refers to.

        A bare name means its ``production`` alias and, where there is none, its latest version.

        Raises:
            NotFoundError: No such name, version or alias; the known ones are listed.
        """
        name, _, selector = ref.partition("@")
        with self._database.session() as session:
            aliases = _aliases(session, name)
            last = _last_version(session, name)
            if last == 0:
                names = session.scalars(select(ModelVersionRow.name).distinct()).all()
                raise NotFoundError(f"There is no model {name!r}.", known=names, name=name)
            version = _select(name, selector, aliases, last)
            row = session.get(ModelVersionRow, (name, version))
            if row is None:
                raise NotFoundError(f"{name!r} has no version {version}; the latest is {last}.")
            return copy_row(row, ModelVersion)

    def list(self, kind: str | None = None, name: str | None = None) -> list[ModelVersion]:
        """All versions, by name and version."""
        query = select(ModelVersionRow).order_by(ModelVersionRow.name, ModelVersionRow.version)
        if kind is not None:
            query = query.where(ModelVersionRow.kind == kind)
        if name is not None:
            query = query.where(ModelVersionRow.name == name)
        with self._database.session() as session:
            return [copy_row(row, ModelVersion) for row in session.scalars(query)]

    def find(self, name: str, fingerprint: str) -> ModelVersion | None:
        """The newest version of ``name`` made from these inputs whose files are whole."""
        for version in reversed(self.list(name=name)):
            if version.lineage.get("fingerprint") == fingerprint:
                try:
                    self.path(version)
                except ArtifactError:
                    # Files that are gone or truncated are made again, not reused.
                    continue
                return version
        return None

    def promote(self, name: str, version: int, alias: str = PRODUCTION) -> ModelVersion:
        """Point ``alias`` at a version; readers of the alias follow within seconds.

        Raises:
            NotFoundError: No such version.
            UsageError: The alias is a number, which would shadow a version.
        """
        if not alias or alias.isdigit():
            raise UsageError(f"An alias cannot be {alias!r}.", "Use a word such as production.")
        # Checked here: the alias table has no foreign key to the versions.
        promoted = self.get(f"{name}@{version}")
        with self._database.session() as session:
            row = AliasRow(name=name, alias=alias, version=version, moved_at=utc_now())
            # An update or an insert by primary key, alike on SQLite and PostgreSQL.
            session.merge(row)
        return promoted

    def promote_if_passed(self, version: ModelVersion, alias: str, failures: Sequence[str]) -> bool:
        """Point ``alias`` at a version whose gate passed; else log what failed.

        Args:
            version: A registered version.
            alias: The alias to move.
            failures: Bounds of the gate that were missed, in words; empty when it passed.
        """
        if failures:
            get_logger("registry").warning(
                "%s is not promoted: %s", version.ref, "; ".join(failures)
            )
            return False
        self.promote(version.name, version.version, alias)
        return True

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version."""
        with self._database.session() as session:
            return _aliases(session, name)

    def path(self, version: ModelVersion) -> Path:
        """A local folder with the version's files."""
        return self.store.fetch(version.uri)


def open_registry(settings: Settings) -> ModelRegistry:
    """The registry of these settings."""
    cache = (settings.paths.state / "artifact-cache").absolute()
    return ModelRegistry(open_database(settings), ArtifactStore(settings.artifacts_uri(), cache))


def _last_version(session: Session, name: str) -> int:
    query = select(ModelVersionRow.version).where(ModelVersionRow.name == name)
    return max(session.scalars(query), default=0)


def _aliases(session: Session, name: str) -> dict[str, int]:
    rows = session.scalars(select(AliasRow).where(AliasRow.name == name))
    return {row.alias: row.version for row in rows}


def _select(name: str, selector: str, aliases: Mapping[str, int], last: int) -> int:
    if not selector:
        return aliases.get(PRODUCTION, last)
    if selector.isdigit():
        return int(selector)
    if selector not in aliases:
        raise NotFoundError(f"{name!r} has no alias {selector!r}.", known=aliases, name=selector)
    return aliases[selector]
