"""Fit a recipe on a file, and prepare a file: what the commands and the jobs call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sunloom.config.preprocessing.transformations import FittedForm, PreparationConfig
from sunloom.config.settings import Settings
from sunloom.core.model_registry import ModelRegistry, open_registry
from sunloom.errors import ConfigError, UsageError
from sunloom.preprocessing.artifact import DOCUMENT, KIND, load, save
from sunloom.preprocessing.fit import fit, read_here
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.preprocessing.recipe import Recipe
from sunloom.preprocessing.tables.batches import Source, open_source
from sunloom.preprocessing.tables.parquet_output import require_writable
from sunloom.preprocessing.transform import prepared_chunks, prepared_schema, write_prepared


def fit_file(
    settings: Settings,
    recipe: Recipe | FittedForm | None,
    request: PreparationConfig,
    keep: Sequence[str] = (),
) -> dict[str, Any]:
    """Fit, save, and register where the request names a model.

    Args:
        settings: The registry.
        recipe: The value of ``transformations``.
        request: Input, artifact folder, engine; ``out`` for the training rows (out-of-fold).
        keep: Columns that a step without ``columns`` leaves alone.

    Returns:
        ``artifact``, ``fingerprint``, ``rows``, ``passes``, ``outputs`` (names), ``notes``,
        ``rank_error``; ``model`` (``name@version``) and ``out`` with ``rows_out`` where asked for.

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
    rows, folder = _given(request.input, "input"), _given(request.artifact, "artifact")
    source = open_source(rows)
    if request.out is not None:
        require_writable(source, request.out)
    fitted = fit(
        recipe,
        rows,
        memory_bytes=request.memory_bytes,
        keep=keep,
        reader=_reader(request.engine),
    )
    mark = save(fitted, folder)
    result: dict[str, Any] = {"artifact": str(folder), "fingerprint": mark}
    result["outputs"] = list(fitted.outputs)
    result |= {key: fitted.about[key] for key in ("rows", "passes", "notes", "rank_error")}
    if request.name is not None:
        registry = open_registry(settings)
        result["model"] = register(registry, fitted, folder, request.name, request.alias)
    if request.out is not None:
        written = _written(fitted, source, request, training=True)
        result |= {"out": str(request.out), "rows_out": written}
    return result


def transform_file(fitted: FittedPipeline, request: PreparationConfig) -> dict[str, Any]:
    """Prepare a file's rows.

    Args:
        fitted: The recipe.
        request: Input, output, engine.

    Returns:
        ``out``, ``rows_out`` and ``outputs`` (names).

    Raises:
        UsageError: The input is not there, or the output is no Parquet file.
        DataError: A column is missing, of another type, or holds what is refused.
    """
    source, out = open_source(_given(request.input, "input")), _given(request.out, "out")
    require_writable(source, out)
    rows = _written(fitted, source, request)
    names = prepared_schema(fitted, source).names()
    return {"out": str(out), "rows_out": rows, "outputs": names}


def open_fitted(settings: Settings, reference: str | Path) -> FittedPipeline:
    """A fitted recipe: a folder, or ``name``, ``name@3``, ``name@alias`` of the registry.

    Raises:
        UsageError: There is neither.
        NotFoundError: The registry has no such name, version or alias.
        ArtifactError: The artifact is damaged.
    """
    folder = Path(reference)
    if (folder / DOCUMENT).is_file() or folder.exists() or "/" in str(reference):
        return load(folder)
    registry = open_registry(settings)
    version = registry.get(str(reference))
    if version.kind != KIND:
        raise UsageError(f"{version.ref} is a model of kind {version.kind}, not {KIND}.")
    return load(registry.path(version))


def register(
    registry: ModelRegistry,
    fitted: FittedPipeline,
    folder: Path,
    name: str,
    alias: str | None = None,
) -> str:
    """A new version in the registry; gives ``name@version``."""
    about = load(folder).about
    version = registry.register(
        name,
        KIND,
        folder,
        metrics={"rows": about["rows"], "rank_error": about["rank_error"]},
        lineage={"fingerprint": about["fingerprint"], "recipe": fitted.recipe},
    )
    if alias is not None:
        registry.promote(name, version.version, alias)
    return version.ref


def _given(path: Path | None, key: str) -> Path:
    if path is None:
        raise ConfigError(f"preparation.{key} is missing.", "Name a path.", f"preparation.{key}")
    return path


def _reader(engine: str) -> Any:
    if engine == "polars":
        return read_here
    from sunloom.preprocessing.cluster.fit_transform import read_ray

    return read_ray


def _written(
    fitted: FittedPipeline, source: Source, request: PreparationConfig, *, training: bool = False
) -> int:
    out = _given(request.out, "out")
    if request.engine == "polars":
        chunks = prepared_chunks(fitted, source, training=training)
        return write_prepared(fitted, source, chunks, out)
    from sunloom.preprocessing.cluster.fit_transform import prepare_ray

    return prepare_ray(fitted, source, out, training=training)
