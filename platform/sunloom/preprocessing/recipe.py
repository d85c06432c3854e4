"""A recipe's steps, and the columns that each of them is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl

from sunloom.config.preprocessing.steps import SimpleImputer, Step, step_of
from sunloom.config.preprocessing.transformations import ShortForm
from sunloom.data.sources.table_files import require_columns
from sunloom.errors import DataError
from sunloom.preprocessing.column_kinds import kind_of, require_kind
from sunloom.preprocessing.estimators.estimator_table import rule_of
from sunloom.preprocessing.estimators.protocol import StepLike

Recipe: TypeAlias = ShortForm | Sequence[Step]
Schema: TypeAlias = Mapping[str, pl.DataType]


def parse_recipe(plain: Any) -> Recipe:
    """The value of ``transformations`` as plain data.

    Raises:
        pydantic.ValidationError: It is neither the short form nor a list of steps.
    """
    if isinstance(plain, ShortForm):
        return plain
    if isinstance(plain, Mapping):
        return ShortForm.model_validate(dict(plain))
    return tuple(step_of(one) if isinstance(one, Mapping) else one for one in plain)


def plain_recipe(recipe: Recipe) -> Any:
    """The recipe as JSON data."""
    if isinstance(recipe, ShortForm):
        return recipe.model_dump(mode="json", exclude_none=True)
    return [step.model_dump(mode="json") for step in recipe]


def steps_of(recipe: Recipe, schema: Schema, keep: Sequence[str] = ()) -> list[Step]:
    """The recipe as a list of steps; the short form with its columns named.

    Args:
        recipe: Short form or list.
        schema: Columns of the table.
        keep: Columns that a step without ``columns`` leaves alone.

    Raises:
        DataError: A column that the short form names is not there, or none fits.
    """
    if not isinstance(recipe, ShortForm):
        return list(recipe)
    named = [*recipe.exclude, *([recipe.target] if recipe.target else [])]
    require_columns(pl.Schema(dict(schema)), named, "The table")
    kept = {*named, *keep}
    numbers = [n for n, dtype in schema.items() if kind_of(dtype) == "number" and n not in kept]
    texts = [n for n, dtype in schema.items() if kind_of(dtype) == "category" and n not in kept]
    steps = [
        *_imputers(recipe, numbers, texts),
        *_encoders(recipe, texts),
        *_scalers(recipe, numbers),
    ]
    if not steps:
        raise DataError(
            "The table has no column that the recipe is for.",
            f"Its columns: {', '.join(f'{n} ({d})' for n, d in schema.items()) or 'none'}.",
        )
    return steps


def _imputers(recipe: ShortForm, numbers: list[str], texts: list[str]) -> list[Step]:
    missing = recipe.missing_values
    if missing is None:
        return []
    columns = list(numbers)
    if missing.strategy == "most_frequent":
        columns += texts
    elif missing.strategy == "constant":
        given = missing.fill_value
        fits_numbers = not isinstance(given, str)
        fits_texts = given is None or isinstance(given, str)
        columns = (numbers if fits_numbers else []) + (texts if fits_texts else [])
    if not columns:
        return []
    fill = missing.fill_value
    return [SimpleImputer(columns=tuple(columns), strategy=missing.strategy, fill_value=fill)]


def _encoders(recipe: ShortForm, texts: list[str]) -> list[Step]:
    encoding = recipe.categorical_encoding
    if encoding is None or not texts:
        return []
    plain: dict[str, Any] = {"type": encoding.encoder, "columns": tuple(texts)}
    if encoding.encoder == "target_encoder":
        plain["target"] = recipe.target
        plain["smooth"] = "auto" if encoding.smoothing is None else encoding.smoothing
    return [step_of(plain)]


def _scalers(recipe: ShortForm, numbers: list[str]) -> list[Step]:
    scaling = recipe.numerical_scaling
    if scaling is None or not numbers:
        return []
    return [step_of({"type": scaling.method, "columns": tuple(numbers)})]


def columns_of(
    step: StepLike, schema: Schema, gone: Sequence[str] = (), keep: Sequence[str] = ()
) -> tuple[str, ...]:
    """The columns that a step is for, in the step's order.

    Args:
        step: The step.
        schema: Columns of the table that the step meets.
        gone: Columns that an earlier step left out: naming one is no error.
        keep: Columns that a step without ``columns`` leaves alone.

    Raises:
        DataError: A named column is missing or of the wrong type, or no column fits.
    """
    rule, target = rule_of(step), getattr(step, "target", None)
    if target is not None:
        require_columns(pl.Schema(dict(schema)), [target], f"The table for {step.type}")
    if step.columns is None:
        kinds = rule.default_kinds(step)
        # The columns that say whose and when a row is are no values of it.
        kept = {*keep, target, getattr(step, "time", None), *getattr(step, "by", ())}
        found = tuple(n for n, d in schema.items() if kind_of(d) in kinds and n not in kept)
        if not found:
            raise DataError(
                f"{step.type} found no column of its kind ({', '.join(kinds)}).",
                f"Columns: {', '.join(f'{n} ({d})' for n, d in schema.items()) or 'none'}.",
                step.type,
            )
        return found
    named = tuple(name for name in dict.fromkeys(step.columns) if name not in gone)
    require_columns(pl.Schema(dict(schema)), named, f"The table for {step.type}")
    if target in named:
        raise DataError(f"{step.type} cannot transform its own target {target!r}.", param=target)
    require_kind(schema, named, rule.kinds, step.type)
    _require_one_list_a_column(step, len(step.columns))
    return named


def _require_one_list_a_column(step: StepLike, columns: int) -> None:
    lists = getattr(step, "categories", "auto")
    if lists != "auto" and len(lists) != columns:
        raise DataError(
            f"{step.type}: categories has {len(lists)} lists for {columns} columns.",
            "Give one list a column.",
            "categories",
        )


__all__ = ["Recipe", "columns_of", "parse_recipe", "plain_recipe", "steps_of"]
