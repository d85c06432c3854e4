"""Fit and transformation of files: what the commands and the jobs call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sunloom.config.preprocessing.transformations import FittedForm, PreparationConfig
from sunloom.config.settings import Settings
from sunloom.core.model_registry import open_registry
from sunloom.errors import ConfigError
from sunloom.preprocessing.artifact import register, save
from sunloom.preprocessing.fit import Reader, fit, read_here
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.preprocessing.recipe import Recipe
from sunloom.preprocessing.tables import open_source
from sunloom.preprocessing.transform import (
    Writer,
    prepared_schema,
    require_writable,
    write_prepared,
)


@dataclass(frozen=True)
class FitResult:
    """What fitting a file has given.

    Attributes:
        artifact: Folder of the artifact.
        fingerprint: The artifact's.
        outputs: Names of the prepared columns.
        rows: Rows fitted on.
        passes: Times that they were read.
        notes: What a user should know.
        rank_error: Most by which a quantile can be off, as a share of the values.
        model: ``name@version`` in the registry, if it was registered.
        out: File of the prepared training rows, if they were written.
        rows_out: Rows in it.
    """

    artifact: str
    fingerprint: str
    outputs: list[str]
    rows: int
    passes: int
    notes: list[str]
    rank_error: float
    model: str | None = None
    out: str | None = None
    rows_out: int | None = None


@dataclass(frozen=True)
class TransformResult:
    """What transforming a file has given.

    Attributes:
        out: File of the prepared rows.
        rows_out: Rows in it.
        outputs: Names of the prepared columns.
    """

    out: str
    rows_out: int
    outputs: list[str]


def fit_file(
    settings: Settings,
    recipe: Recipe | FittedForm | None,
    request: PreparationConfig,
    keep: Sequence[str] = (),
) -> FitResult:
    """Fit, save, and register where the request names a model.

    Args:
        settings: The registry.
        recipe: The value of ``transformations``.
        request: Input, artifact folder, engine; ``out`` for the training rows (out-of-fold).
        keep: Columns that a step without ``columns`` leaves alone.

    Raises:
        ConfigError: The recipe has no ``transformations``, or a path is missing.
        UsageError: A file is not there.
        DataError: The rows cannot be learnt from.
    """
    if isinstance(recipe, FittedForm):
        raise ConfigError(
            f"The recipe's transformations are fitted: the artifact {recipe.artifact}.",
            "Give the short form or a list of steps to fit anew.",
            "transformations.artifact",
        )
    if recipe is None:
        raise ConfigError(
            "The recipe has no `transformations`.",
            "Give the short form or a list of steps; conf/README.md lists them.",
            "transformations",
        )
    rows, folder = _require(request.input, "input"), _require(request.artifact, "artifact")
    source = open_source(rows)
    # Before fitting, which may take hours.
    if request.out is not None:
        require_writable(source, request.out)
    reader, write = _engine_of(request.engine)
    fitted = fit(recipe, rows, memory_bytes=request.memory_bytes, keep=keep, reader=reader)
    fingerprint = save(fitted, folder)
    model = rows_out = None
    if request.name is not None:
        registry = open_registry(settings)
        model = register(registry, fitted, folder, request.name, request.alias)
    if request.out is not None:
        rows_out = write(fitted, open_source(rows, fitted.schema), request.out, training=True)
    return FitResult(
        artifact=str(folder),
        fingerprint=fingerprint,
        outputs=list(fitted.outputs),
        rows=fitted.report.rows,
        passes=fitted.report.passes,
        notes=fitted.report.notes,
        rank_error=fitted.report.rank_error,
        model=model,
        out=None if request.out is None else str(request.out),
        rows_out=rows_out,
    )


def transform_file(fitted: FittedPipeline, request: PreparationConfig) -> TransformResult:
    """Transform a file's rows.

    Args:
        fitted: The pipeline.
        request: Input, output, engine.

    Raises:
        UsageError: The input is not there, or the output is no Parquet file.
        DataError: A column is missing, of another type, or holds what is refused.
    """
    source = open_source(_require(request.input, "input"), fitted.schema)
    out = _require(request.out, "out")
    _, write = _engine_of(request.engine)
    rows = write(fitted, source, out)
    return TransformResult(str(out), rows, prepared_schema(fitted, source).names())


def _require(path: Path | None, key: str) -> Path:
    if path is None:
        raise ConfigError(f"preparation.{key} is missing.", "Name a path.", f"preparation.{key}")
    return path


def _engine_of(name: str) -> tuple[Reader, Writer]:
    """What reads a table when fitting, and what writes prepared rows."""
    if name == "polars":
        return read_here, write_prepared
    # Ray takes seconds to import: only where its engine is chosen.
    from sunloom.preprocessing.cluster.fit_transform import read_ray, write_prepared_ray

    return read_ray, write_prepared_ray
