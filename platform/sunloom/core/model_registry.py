"""The registry of model versions and of the aliases that point at them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Integer, String, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.config import Settings
from sunloom.config.names import check_alias, check_name
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
TABLE_KIND = "table"
_NOUNS = {
    "llm": "a base language model",
    "adapter": "an adapter of a language model",
    "reward": "a reward model",
    "tabular": "a tabular model",
    TABLE_KIND: "a table",
}
# Nine digits are more versions than a name will have, and no more than any database's integer.
_VERSION = re.compile(r"[0-9]{1,9}")
# Of a name that a caller sent: messages are lines.
_SHOWN = 60


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
        kind: ``llm``, ``adapter``, ``reward``, ``tabular``, ``table`` or a plugin's own.
        uri: Of its files.
        metrics: Of training and evaluation.
        lineage: Inputs; ``fingerprint`` identifies recipe and inputs, ``tenant`` the owner.
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

    @property
    def tenant(self) -> str | None:
        """The tenant that owns it; None is the operator's, which every tenant reads."""
        tenant: str | None = self.lineage.get("tenant")
        return tenant

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
    """Model versions, their metrics and lineage, and the aliases that point at them.

    A name keeps the kind and the tenant of its first version. Readers on behalf of a tenant see
    its own models and the operator's.
    """

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
        *,
        tenant: str | None = None,
    ) -> ModelVersion:
        """Store a folder and give it the name's next version number.

        Args:
            name: Letters, digits, dots, underscores and dashes.
            kind: ``llm``, ``adapter``, ``reward``, ``tabular`` or a plugin's own.
            path: The folder.
            metrics: Of training and evaluation.
            lineage: Inputs.
            tenant: Who owns the model; None is the operator.

        Raises:
            UsageError: The name cannot be one, or is of another kind or tenant.
        """
        self.check_name(name, kind, tenant)
        owner = {} if tenant is None else {"tenant": tenant}
        # Files first: a version in the database always has its files.
        uri = self.store.put(path, name)
        for _ in range(20):
            try:
                with self._database.session() as session:
                    versions = _versions(session, name)
                    # Again: another process may have taken the name while the files were stored.
                    _check_first(versions, kind, tenant)
                    row = ModelVersionRow(
                        name=name,
                        version=versions[-1].version + 1 if versions else 1,
                        kind=kind,
                        uri=uri,
                        metrics=dict(metrics or {}),
                        lineage={**(lineage or {}), **owner},
                        created_at=utc_now(),
                    )
                    session.add(row)
                return copy_row(row, ModelVersion)
            except IntegrityError:
                continue  # another process took the number: take the next
        raise ArtifactError(f"No version number for {name!r} after 20 tries.")

    def check_name(self, name: str, kind: str, tenant: str | None = None) -> None:
        """Refuse at once what ``register`` would refuse after the work.

        Raises:
            UsageError: The name cannot be one, or is of another kind or tenant.
        """
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(
                f"A model cannot be named {name[:_SHOWN]!r}: {error}.", param="output.name"
            ) from None
        with self._database.session() as session:
            _check_first(_versions(session, name), kind, tenant)

    def get(self, ref: str, reader: str | None = None) -> ModelVersion:
        """The version that ``name``, ``name@3`` or ``name@alias`` refers to.

        A bare name means its ``production`` alias and, where there is none, its latest version.

        Args:
            ref: The reference.
            reader: The tenant on whose behalf it is read; None sees every tenant's.

        Raises:
            NotFoundError: No such name, version or alias; the known ones are listed.
        """
        name, _, selector = ref.partition("@")
        with self._database.session() as session:
            rows = _versions(session, name)
            if not rows or not is_visible(rows[0].lineage, reader):
                known = {version.name for version in self.list(reader=reader)}
                raise NotFoundError(f"There is no model {name[:_SHOWN]!r}.", known=known, name=name)
            version = _select(name, selector, _aliases(session, name), rows[-1].version)
            row = next((row for row in rows if row.version == version), None)
            if row is None:
                raise NotFoundError(
                    f"{name!r} has no version {version}; the latest is {rows[-1].version}."
                )
            return copy_row(row, ModelVersion)

    def list(
        self, kind: str | None = None, name: str | None = None, reader: str | None = None
    ) -> list[ModelVersion]:
        """All versions, by name and version.

        Args:
            kind: Only those of a kind.
            name: Only those of a name.
            reader: The tenant on whose behalf they are read; None sees every tenant's.
        """
        if not (kind or "").isprintable():
            # Neither PostgreSQL nor SQLite takes every character in a question.
            return []
        query = select(ModelVersionRow).order_by(ModelVersionRow.name, ModelVersionRow.version)
        if kind is not None:
            query = query.where(ModelVersionRow.kind == kind)
        if name is not None:
            query = query.where(ModelVersionRow.name == name)
        with self._database.session() as session:
            versions = [copy_row(row, ModelVersion) for row in session.scalars(query)]
        return [version for version in versions if is_visible(version.lineage, reader)]

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
            UsageError: The alias cannot be one, such as a number, which would shadow a version.
        """
        try:
            check_alias(alias)
        except ValueError as error:
            raise UsageError(
                f"An alias cannot be {alias[:_SHOWN]!r}: {error}.", param="alias"
            ) from None
        # Checked here: the alias table has no foreign key to the versions.
        promoted = self.get(f"{name}@{version}")
        with self._database.session() as session:
            row = AliasRow(name=name, alias=alias, version=version, moved_at=utc_now())
            # An update or an insert by primary key, alike on SQLite and PostgreSQL.
            session.merge(row)
        return promoted

    def add_metrics(self, version: ModelVersion, metrics: Mapping[str, Any]) -> ModelVersion:
        """The version with more metrics, such as what a gate decided on it.

        Args:
            version: A registered version.
            metrics: Take the place of those of the same name.
        """
        with self._database.session() as session:
            row = session.get_one(ModelVersionRow, (version.name, version.version))
            # Another object: a change inside the same one would not be noticed.
            row.metrics = {**row.metrics, **metrics}
        return copy_row(row, ModelVersion)

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


def register_table(
    registry: ModelRegistry,
    name: str,
    path: Path,
    lineage: Mapping[str, Any] | None = None,
    *,
    tenant: str | None = None,
) -> ModelVersion:
    """Register a file of rows, or a folder of them, as a version of a table.

    Args:
        registry: Keeps it.
        name: Of the table.
        path: The file or folder.
        lineage: Where its rows come from.
        tenant: Who owns the table and alone reads it; None is the operator, for all tenants.

    Raises:
        UsageError: There is no such file, or the name is another model's or table's.
    """
    if not path.exists():
        raise UsageError(f"There is no file or folder {path}.")
    if path.is_dir():
        return registry.register(name, TABLE_KIND, path, None, lineage, tenant=tenant)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, folder)
        return registry.register(name, TABLE_KIND, Path(folder), None, lineage, tenant=tenant)


def is_visible(lineage: Mapping[str, Any], reader: str | None) -> bool:
    """Whether a tenant may read a model: its own and the operator's; None reads every tenant's."""
    return reader is None or lineage.get("tenant") in (None, reader)


def _versions(session: Session, name: str) -> Sequence[ModelVersionRow]:
    """The versions of a name, oldest first."""
    if not name.isprintable():
        return []
    query = select(ModelVersionRow).where(ModelVersionRow.name == name)
    return session.scalars(query.order_by(ModelVersionRow.version)).all()


def _check_first(versions: Sequence[ModelVersionRow], kind: str, tenant: str | None) -> None:
    """Refuse a version that is of another kind or tenant than the first one of its name."""
    if not versions:
        return
    first = versions[0]
    # The tenant before the kind: what another tenant's model is, is not to be told.
    if first.lineage.get("tenant") != tenant:
        raise UsageError(
            f"The model name {first.name!r} is taken.", "Choose another output.name.", "output.name"
        )
    if first.kind != kind:
        raise UsageError(
            f"{first.name!r} is {_NOUNS.get(first.kind, first.kind)}, not "
            f"{_NOUNS.get(kind, kind)}: a name keeps its kind.",
            "Choose another output.name.",
            "output.name",
        )


def _aliases(session: Session, name: str) -> dict[str, int]:
    rows = session.scalars(select(AliasRow).where(AliasRow.name == name))
    return {row.alias: row.version for row in rows}


def _select(name: str, selector: str, aliases: Mapping[str, int], last: int) -> int:
    if not selector:
        return aliases.get(PRODUCTION, last)
    if _VERSION.fullmatch(selector):
        return int(selector)
    if selector not in aliases:
        shown = selector[:_SHOWN]
        what = "version" if shown.isdigit() else "alias"
        raise NotFoundError(f"{name!r} has no {what} {shown!r}.", known=aliases, name=shown)
    return aliases[selector]
