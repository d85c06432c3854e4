"""Artifact of a fitted pipeline: JSON, Parquet for long columns, versions in the registry."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.settings import Settings
from sunloom.core.artifacts import fingerprint
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.errors import ArtifactError, UsageError
from sunloom.preprocessing.operations.operation_table import OPERATIONS
from sunloom.preprocessing.operations.protocol import Operation
from sunloom.preprocessing.pipeline import FitReport, FittedPipeline

FORMAT = 1
DOCUMENT = "transform.json"
KIND = "features-transform"
# Longer columns go to Parquet: JSON would be larger and slower to read.
_INLINE_VALUES = 200
_TYPES: Mapping[str, Any] = {
    "String": pl.String,
    "Int64": pl.Int64,
    "Float64": pl.Float64,
    "Float32": pl.Float32,
    "Boolean": pl.Boolean,
}


def save(fitted: FittedPipeline, folder: Path) -> str:
    """Write the artifact; an older one in the folder is replaced as a whole.

    Args:
        fitted: What to write.
        folder: Made if it is not there.

    Returns:
        The artifact's fingerprint: equal recipes fitted on equal rows have the same.

    Raises:
        UsageError: The folder holds something else.
        ArtifactError: It cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DOCUMENT).is_file():
        raise UsageError(
            f"The folder {folder} holds something else than a fitted artifact.",
            "Name a folder that is not there or is empty.",
            "artifact",
        )
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: a rename to another file system fails.
        staging = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}-"))
        mark = _write(fitted, staging)
        # mkdtemp makes a folder for its owner only.
        staging.chmod(0o755)
        _replace_folder(folder, staging)
    except OSError as error:
        raise ArtifactError(
            f"The artifact cannot be written to {folder}: {error}",
            "An earlier one is whole. Free space or fix the permission and run again.",
        ) from error
    return mark


def load(folder: Path) -> FittedPipeline:
    """Read an artifact, and verify its checksums.

    Raises:
        UsageError: There is no artifact.
        ArtifactError: A file is missing, truncated or changed, or of a newer format.
    """
    document = folder / DOCUMENT
    if not document.is_file():
        raise UsageError(
            f"There is no fitted artifact in {folder}.",
            "Make one: sunloom features fit",
            "artifact",
        )
    try:
        plain = json.loads(document.read_text())
        if plain["format"] != FORMAT:
            raise ArtifactError(f"{folder} is of format {plain['format']}, not {FORMAT}.")
        reader = _Reader(folder, plain["files"])
        return FittedPipeline(
            recipe=plain["recipe"],
            schema={name: _dtype_of(text) for name, text in plain["schema"].items()},
            stages=tuple(tuple(map(reader.operation, stage)) for stage in plain["stages"]),
            outputs=plain["outputs"],
            report=FitReport(**plain["about"], fingerprint=plain["fingerprint"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"The artifact {folder} is damaged: {document.name}: {error}", "Fit again."
        ) from error


def register(
    registry: ModelRegistry,
    fitted: FittedPipeline,
    folder: Path,
    name: str,
    alias: str | None = None,
) -> str:
    """A new version in the registry; returns ``name@version``."""
    report = load(folder).report
    version = registry.register(
        name,
        KIND,
        folder,
        metrics={"rows": report.rows, "rank_error": report.rank_error},
        lineage={"fingerprint": report.fingerprint, "recipe": fitted.recipe},
    )
    if alias is not None:
        registry.promote(name, version.version, alias)
    return version.ref


def open_fitted(settings: Settings, reference: str | Path) -> FittedPipeline:
    """A fitted pipeline: a folder, or ``name``, ``name@3``, ``name@alias`` of the registry.

    Raises:
        UsageError: There is neither.
        NotFoundError: The registry has no such name, version or alias.
        ArtifactError: The artifact is damaged.
    """
    folder = Path(reference)
    if not folder.exists() and "/" not in str(reference):
        registry = open_registry(settings)
        version = registry.get(str(reference))
        if version.kind != KIND:
            raise UsageError(f"{version.ref} is a model of kind {version.kind}, not {KIND}.")
        folder = registry.path(version)
    return load(folder)


def _write(fitted: FittedPipeline, folder: Path) -> str:
    writer = _Writer(folder)
    stages = [[writer.to_json(operation) for operation in stage] for stage in fitted.stages]
    schema = {name: str(dtype) for name, dtype in fitted.schema.items()}
    mark = fingerprint(fitted.recipe, schema, stages, writer.files)
    about = asdict(fitted.report)
    # It is of the rest of the document, so it stands beside it.
    del about["fingerprint"]
    plain = {
        "format": FORMAT,
        "fingerprint": mark,
        "recipe": fitted.recipe,
        "schema": schema,
        "outputs": dict(fitted.outputs),
        "about": about,
        "stages": stages,
        "files": writer.files,
    }
    # NaN is no JSON: other readers would refuse the file.
    text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / DOCUMENT).write_text(text)
    return mark


def _replace_folder(folder: Path, staging: Path) -> None:
    if not folder.is_dir():
        staging.rename(folder)
        return
    # A folder cannot be renamed over a full one: the old one is moved away first.
    old = Path(tempfile.mkdtemp(dir=staging.parent, prefix=f".{folder.name}-old-"))
    folder.rename(old / "was")
    staging.rename(folder)
    shutil.rmtree(old)


@dataclass
class _Writer:
    folder: Path
    files: dict[str, str] = field(default_factory=dict)

    def to_json(self, operation: Operation) -> Any:
        """An operation as JSON data; long columns go into files."""
        stored = [f.name for f in fields(operation) if f.metadata.get("stored", True)]  # type: ignore[arg-type]
        values = {name: self._value_to_json(getattr(operation, name)) for name in stored}
        return {"op": operation.op, **values}

    def _value_to_json(self, value: Any) -> Any:
        if isinstance(value, pl.Series):
            if len(value) <= _INLINE_VALUES:
                if isinstance(value.dtype, pl.Decimal):
                    # JSON's numbers are floats for most readers.
                    texts = [None if item is None else str(item) for item in value]
                    return {"series": texts, "dtype": "Decimal", "scale": value.dtype.scale}
                return {"series": value.to_list(), "dtype": str(value.dtype)}
            return {"file": self._write_file(value.to_frame("values"))}
        if isinstance(value, pl.DataFrame):
            if value.height <= _INLINE_VALUES:
                return {"columns": [[s.name, self._value_to_json(s)] for s in value]}
            return {"frame": self._write_file(value)}
        if isinstance(value, tuple):
            return [self._value_to_json(item) for item in value]
        return value

    def _write_file(self, frame: pl.DataFrame) -> str:
        name = f"values-{len(self.files):04d}.parquet"
        frame.write_parquet(self.folder / name)
        self.files[name] = _checksum(self.folder / name)
        return name


@dataclass
class _Reader:
    folder: Path
    files: Mapping[str, str]

    def operation(self, plain: Mapping[str, Any]) -> Operation:
        """An operation from JSON data."""
        values = {name: self._value(item) for name, item in plain.items() if name != "op"}
        return OPERATIONS[plain["op"]](**values)

    def _value(self, plain: Any) -> Any:
        if isinstance(plain, list):
            # JSON has no tuples, and operations are frozen.
            return tuple(self._value(item) for item in plain)
        if not isinstance(plain, dict):
            return plain
        if "scale" in plain:
            decimals = [None if text is None else Decimal(text) for text in plain["series"]]
            return pl.Series(decimals, dtype=pl.Decimal(38, plain["scale"]))
        if "series" in plain:
            return pl.Series(plain["series"], dtype=_TYPES[plain["dtype"]])
        if "columns" in plain:
            return pl.DataFrame([self._value(item).alias(name) for name, item in plain["columns"]])
        if "file" in plain:
            return self._read_file(plain["file"]).to_series()
        return self._read_file(plain["frame"])

    def _read_file(self, name: str) -> pl.DataFrame:
        path = self.folder / name
        if not path.is_file() or _checksum(path) != self.files[name]:
            raise ArtifactError(
                f"The artifact {self.folder} is damaged: {name} is missing or changed.",
                "Fit again, or fetch it again.",
            )
        return pl.read_parquet(path)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _dtype_of(text: str) -> pl.DataType:
    """The type that a column's kind goes by; text stands for everything that is no number."""
    kind = text.partition("(")[0]
    if kind.startswith(("Int", "UInt", "Float", "Decimal", "Null")):
        return pl.Float64() if kind.startswith(("Float", "Decimal")) else pl.Int64()
    others: Mapping[str, pl.DataType] = {
        "Boolean": pl.Boolean(),
        "Date": pl.Date(),
        "Datetime": pl.Datetime(),
        "Binary": pl.Binary(),
    }
    return others.get(kind, pl.String())
