"""Recipe of preprocessing: its steps, and the columns that each of them is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl

from sunloom.config.preprocessing.steps import Step, step_of
from sunloom.config.preprocessing.transformations import ShortForm
from sunloom.data.sources.table_files import require_columns
from sunloom.data.sources.text_types import UTC_TIME
from sunloom.errors import DataError
from sunloom.preprocessing.columns import Kind, kind_of, require_kind
from sunloom.preprocessing.estimators.estimator_table import estimator_of
from sunloom.preprocessing.estimators.protocol import StepLike, target_of

_NUMBERS: frozenset[Kind] = frozenset({"number", "bool"})
Recipe: TypeAlias = ShortForm | Sequence[Step]


def parse_recipe(plain: Any) -> Recipe:
    """The value of ``transformations`` as plain data.

    Raises:
        pydantic.ValidationError: It is neither the short form nor a list of steps.
    """
    if isinstance(plain, ShortForm):
        return plain
    if isinstance(plain, Mapping):
        return ShortForm.model_validate(dict(plain))
    return tuple(step_of(step) if isinstance(step, Mapping) else step for step in plain)


def recipe_to_json(recipe: Recipe) -> Any:
    """The recipe as JSON data."""
    if isinstance(recipe, ShortForm):
        # Part of an artifact's fingerprint: another form would make equal artifacts differ.
        return recipe.model_dump(mode="json", exclude_none=True)
    return [step.model_dump(mode="json") for step in recipe]


def steps_of(recipe: Recipe, schema: pl.Schema, keep: Sequence[str] = ()) -> list[Step]:
    """The recipe as a list of steps; the short form with its columns named.

    Args:
        recipe: Short form or list.
        schema: Columns of the table.
        keep: Columns that a step without ``columns`` leaves alone.

    Raises:
        ConfigError: The short form encodes by a target that it does not name.
        DataError: A column that the short form names is not there, or none fits.
    """
    if not isinstance(recipe, ShortForm):
        return list(recipe)
    recipe.require_target()
    named = [*recipe.exclude, *([recipe.target] if recipe.target else [])]
    require_columns(schema, named, "The table")
    kinds = {n: kind_of(dtype) for n, dtype in schema.items() if n not in {*named, *keep}}
    numbers = tuple(name for name, kind in kinds.items() if kind == "number")
    texts = tuple(name for name, kind in kinds.items() if kind == "category")
    steps = _imputers(recipe, numbers, texts)
    if recipe.categorical_encoding is not None and texts:
        encoding = recipe.categorical_encoding
        plain: dict[str, Any] = {"type": encoding.encoder, "columns": texts}
        if encoding.encoder == "target_encoder":
            plain["target"] = recipe.target
            plain["smooth"] = "auto" if encoding.smoothing is None else encoding.smoothing
        steps.append(step_of(plain))
    if recipe.numerical_scaling is not None and numbers:
        steps.append(step_of({"type": recipe.numerical_scaling.method, "columns": numbers}))
    if not steps:
        raise DataError(
            "The table has no column that the recipe is for.",
            f"Its columns: {', '.join(f'{n} ({d})' for n, d in schema.items()) or 'none'}.",
        )
    return steps


def _imputers(recipe: ShortForm, numbers: tuple[str, ...], texts: tuple[str, ...]) -> list[Step]:
    missing = recipe.missing_values
    if missing is None:
        return []
    if missing.strategy in ("iterative_imputer", "knn_imputer"):
        return [step_of({"type": missing.strategy, "columns": numbers})] if numbers else []
    # Text has no mean: only most_frequent and constant fill it.
    columns, fill = numbers, missing.fill_value
    if missing.strategy == "most_frequent" or (missing.strategy == "constant" and fill is None):
        columns = numbers + texts
    elif missing.strategy == "constant":
        columns = texts if isinstance(fill, str) else numbers
    if not columns:
        return []
    plain = {"type": "simple_imputer", "strategy": missing.strategy, "fill_value": fill}
    return [step_of(plain | {"columns": columns})]


def known_types(recipe: Recipe) -> dict[str, pl.DataType]:
    """Columns of text that the recipe knows to be numbers or times: its steps take nothing else."""
    known: dict[str, pl.DataType] = {}
    seen: set[str] = set()
    for step in () if isinstance(recipe, ShortForm) else recipe:
        times = [getattr(step, "time", None), getattr(step, "until", None)]
        known |= {name: UTC_TIME for name in times if name is not None and name not in seen}
        if step.columns is None:
            # It may change any column, and steps after it see what it has made.
            break
        estimator = estimator_of(step)
        by_step = estimator.kinds_by_step is not None
        kinds = set(estimator.default_kinds(step) if by_step else estimator.kinds)
        dtype = UTC_TIME if kinds == {"time"} else pl.Float64() if kinds <= _NUMBERS else None
        if dtype is not None:
            known |= {name: dtype for name in step.columns if name not in seen}
        seen |= set(step.columns)
    return known


def text_columns(recipe: Recipe) -> list[str]:
    """Columns that the recipe names for steps on text: bytes there are text, and no image."""
    steps = () if isinstance(recipe, ShortForm) else recipe
    return [
        name
        for step in steps
        if "category" in (kinds := estimator_of(step).kinds) and "bytes" not in kinds
        for name in step.columns or ()
    ]


def columns_of(
    step: StepLike, schema: pl.Schema, removed: Sequence[str] = (), keep: Sequence[str] = ()
) -> tuple[str, ...]:
    """The columns that a step is for, in the step's order.

    Args:
        step: The step.
        schema: Columns of the table before the step.
        removed: Columns that an earlier step left out: naming one is no error.
        keep: Columns that a step without ``columns`` leaves alone.

    Raises:
        DataError: A named column is missing or of the wrong type, or no column fits.
    """
    estimator, target = estimator_of(step), target_of(step)
    require_columns(schema, target, f"The table for {step.type}")
    if step.columns is None:
        kinds = estimator.default_kinds(step)
        # A row's entity key and timestamp are no values of it.
        kept = {*keep, *target, getattr(step, "time", None), *getattr(step, "by", ())}
        columns = tuple(n for n, d in schema.items() if kind_of(d) in kinds and n not in kept)
        if not columns:
            raise DataError(
                f"{step.type} found no column of its kind ({', '.join(kinds)}).",
                f"Columns: {', '.join(f'{n} ({d})' for n, d in schema.items()) or 'none'}.",
                step.type,
            )
        return columns
    columns = tuple(name for name in dict.fromkeys(step.columns) if name not in removed)
    require_columns(schema, columns, f"The table for {step.type}")
    if set(target) & set(columns):
        raise DataError(
            f"{step.type} cannot transform its own target {target[0]!r}.", param=target[0]
        )
    require_kind(schema, columns, estimator.kinds, step.type)
    lists = getattr(step, "categories", "auto")
    if lists != "auto" and len(lists) != len(step.columns):
        raise DataError(
            f"{step.type}: categories has {len(lists)} lists for {len(step.columns)} columns.",
            "Give one list per column.",
            "categories",
        )
    return columns
