"""A fitted recipe as a folder: JSON, and Parquet for long columns of numbers or levels."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.core.fingerprint import fingerprint
from sunloom.errors import ArtifactError, UsageError
from sunloom.preprocessing.operations.operation_table import OPERATIONS
from sunloom.preprocessing.operations.protocol import Operation
from sunloom.preprocessing.pipeline import FittedPipeline

FORMAT = 1
DOCUMENT = "transform.json"
KIND = "features-transform"
_INLINE = 200
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
    _require_ours(folder)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}-"))
        mark = _write(fitted, staging)
        staging.chmod(0o755)
        _swap(staging, folder)
    except OSError as error:
        raise ArtifactError(
            f"The artifact cannot be written to {folder}: {error}",
            "An earlier one is whole. Free space or fix the permission and run again.",
        ) from error
    return mark


def load(folder: Path) -> FittedPipeline:
    """Read an artifact, checked against its own sums.

    Raises:
        UsageError: There is no artifact.
        ArtifactError: A file is missing, cut off or changed, or of a newer format.
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
        stages = tuple(tuple(reader.operation(op) for op in stage) for stage in plain["stages"])
        return FittedPipeline(
            recipe=plain["recipe"],
            schema={name: _dtype(text) for name, text in plain["schema"].items()},
            stages=stages,
            outputs=plain["outputs"],
            about=plain["about"] | {"fingerprint": plain["fingerprint"]},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"The artifact {folder} is damaged: {document.name}: {error}", "Fit again."
        ) from error


def _require_ours(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DOCUMENT).is_file():
        raise UsageError(
            f"The folder {folder} holds something else than a fitted artifact.",
            "Name a folder that is not there or is empty.",
            "artifact",
        )


def _write(fitted: FittedPipeline, folder: Path) -> str:
    writer = _Writer(folder)
    stages = [[writer.operation(op) for op in stage] for stage in fitted.stages]
    schema = {name: str(dtype) for name, dtype in fitted.schema.items()}
    mark = fingerprint(fitted.recipe, schema, stages, writer.files)
    plain = {
        "format": FORMAT,
        "fingerprint": mark,
        "recipe": fitted.recipe,
        "schema": schema,
        "outputs": dict(fitted.outputs),
        "about": {k: v for k, v in fitted.about.items() if k != "fingerprint"},
        "stages": stages,
        "files": writer.files,
    }
    text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / DOCUMENT).write_text(text)
    return mark


def _swap(staging: Path, folder: Path) -> None:
    if folder.is_dir():
        old = Path(tempfile.mkdtemp(dir=staging.parent, prefix=f".{folder.name}-old-"))
        folder.rename(old / "was")
        staging.rename(folder)
        shutil.rmtree(old)
    else:
        staging.rename(folder)


@dataclass
class _Writer:
    folder: Path
    files: dict[str, str] = field(default_factory=dict)

    def operation(self, operation: Operation) -> dict[str, Any]:
        kept = [f.name for f in fields(operation) if f.metadata.get("stored", True)]  # type: ignore[arg-type]
        return {"op": operation.op} | {n: self._plain(getattr(operation, n)) for n in kept}

    def _plain(self, value: Any) -> Any:
        if isinstance(value, pl.Series):
            if len(value) <= _INLINE:
                return {"series": value.to_list(), "dtype": str(value.dtype)}
            return {"file": self._file(value.to_frame("values"))}
        if isinstance(value, pl.DataFrame):
            if value.height <= _INLINE:
                return {"columns": [[s.name, self._plain(s)] for s in value]}
            return {"frame": self._file(value)}
        if isinstance(value, tuple):
            return [self._plain(item) for item in value]
        return value

    def _file(self, frame: pl.DataFrame) -> str:
        name = f"values-{len(self.files):04d}.parquet"
        frame.write_parquet(self.folder / name)
        self.files[name] = _sum_of(self.folder / name)
        return name


@dataclass
class _Reader:
    folder: Path
    files: Mapping[str, str]

    def operation(self, plain: dict[str, Any]) -> Operation:
        values = {name: self._value(item) for name, item in plain.items() if name != "op"}
        return OPERATIONS[plain["op"]](**values)

    def _value(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return tuple(self._value(item) for item in plain)
        if not isinstance(plain, dict):
            return plain
        if "series" in plain:
            return pl.Series(plain["series"], dtype=_TYPES[plain["dtype"]])
        if "columns" in plain:
            return pl.DataFrame([self._value(one).alias(name) for name, one in plain["columns"]])
        if "file" in plain:
            return self._file(plain["file"]).to_series()
        return self._file(plain["frame"])

    def _file(self, name: str) -> pl.DataFrame:
        path = self.folder / name
        if not path.is_file() or _sum_of(path) != self.files[name]:
            raise ArtifactError(
                f"The artifact {self.folder} is damaged: {name} is missing or changed.",
                "Fit again, or fetch it again.",
            )
        return pl.read_parquet(path)


def _sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _dtype(text: str) -> pl.DataType:
    """The type that a column's kind goes by; text stands for everything that is no number."""
    kind = text.partition("(")[0]
    numbers = ("Int", "UInt", "Float", "Decimal", "Null")
    if kind.startswith(numbers):
        return pl.Float64() if kind.startswith(("Float", "Decimal")) else pl.Int64()
    others = {"Boolean": pl.Boolean(), "Date": pl.Date(), "Datetime": pl.Datetime()}
    others |= {"Binary": pl.Binary()}
    return others.get(kind, pl.String())
