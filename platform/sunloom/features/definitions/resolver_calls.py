"""Calls a resolver of a definitions module: plain values and Polars frames in and out.

chalkpy's own ``DataFrame`` and feature instances exist on the inner side of this file alone.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl
from polars.exceptions import PerformanceWarning

from sunloom.errors import DefinitionError
from sunloom.features.definitions.loading import import_definitions
from sunloom.features.definitions.resolvers import find_resolver, source_digest
from sunloom.features.plan import Aggregate, Resolver


@dataclass(frozen=True)
class LoadedResolver:
    """A resolver's function at the boundary.

    Attributes:
        call: Takes the arguments (plain values, rows of a has-many as a Polars frame; or the one
            frame), gives the function's own answer, or an awaitable of it.
        outputs: Turns that answer into values by feature name, or, for a frame, into a Polars
            frame with columns by feature name.
        is_async: Whether ``call`` gives an awaitable.
    """

    call: Callable[[Sequence[Any]], Any]
    outputs: Callable[[Any], Any]
    is_async: bool


@lru_cache(maxsize=256)
def load_resolver(resolver: Resolver) -> LoadedResolver:
    """Import the definitions that hold the function.

    Raises:
        DefinitionError: The function is no longer there, or its text has changed since the plan
            was made.
    """
    raw = _raw(resolver)
    if raw is None or source_digest(raw) != resolver.digest:
        what = "is not there" if raw is None else "has changed"
        raise DefinitionError(
            f"{resolver.place}: resolver {resolver.fqn!r} {what} in {resolver.definitions!r}.",
            "Make the plan anew, and let every worker have the same definitions.",
            resolver.fqn,
        )
    # chalkpy's DataFrame asks Polars for its types at every step.
    warnings.filterwarnings("ignore", category=PerformanceWarning, module="chalk")
    wrap = _wrappers(resolver)
    names = {one.name: _attribute(raw, one.name) for one in resolver.outputs}

    def call(values: Sequence[Any]) -> Any:
        return raw.fn(*(wrapped(value) for wrapped, value in zip(wrap, values, strict=True)))

    def outputs(answer: Any) -> Any:
        _refuse_queries(resolver, answer)
        if resolver.shape == "frame":
            return _as_frame(raw, answer)
        return _as_values(raw, names, answer)

    return LoadedResolver(call, outputs, inspect.iscoroutinefunction(raw.fn))


def _raw(resolver: Resolver) -> Any:
    module = import_definitions(resolver.definitions)
    return find_resolver(resolver.definitions, module, resolver.fqn)


def _wrappers(resolver: Resolver) -> list[Callable[[Any], Any]]:
    if resolver.shape == "frame":
        return [_framed]
    return [
        _many(resolver, given.value) if isinstance(given.value, Aggregate) else _same
        for given in resolver.args
    ]


def _same(value: Any) -> Any:
    return value


def _framed(frame: pl.DataFrame) -> Any:
    from chalk.features import DataFrame

    return DataFrame(frame)


def _many(resolver: Resolver, rows: Aggregate) -> Callable[[Any], Any]:
    raw = _raw(resolver)
    namespace = next(
        given.joined_class.namespace
        for given in raw.inputs
        if getattr(given, "is_has_many", False) and given.name == rows.join
    )
    return lambda frame: _framed(frame.rename(lambda name: f"{namespace}.{name}"))


def _attribute(raw: Any, name: str) -> str:
    found = next(feature for feature in raw.flattened_output if feature.name == name)
    return str(found.attribute_name)


def _as_values(raw: Any, names: Mapping[str, str], answer: Any) -> Mapping[str, Any]:
    from chalk.features.feature_set import is_feature_set_class

    if is_feature_set_class(type(answer)):
        return {name: getattr(answer, attribute) for name, attribute in names.items()}
    if len(names) > 1:
        owner = raw.flattened_output[0].features_cls.__name__
        raise TypeError(
            f"it gives {len(names)} features: return {owner}(…), not {type(answer).__name__}"
        )
    return dict.fromkeys(names, answer)


def _as_frame(raw: Any, answer: Any) -> pl.DataFrame:
    frame = _as_polars(answer)
    plain = {f.root_fqn: f.name for f in raw.flattened_output}
    return frame.rename({name: plain[name] for name in frame.columns if name in plain})


def _as_polars(answer: Any) -> pl.DataFrame:
    from chalk.features import DataFrame

    if isinstance(answer, list):
        answer = DataFrame(answer)
    if isinstance(answer, DataFrame):
        answer = answer.to_polars()
    if isinstance(answer, pl.LazyFrame):
        answer = answer.collect()
    if isinstance(answer, pl.DataFrame):
        return answer
    kind = type(answer).__module__.split(".")[0]
    if kind in ("pandas", "pyarrow"):
        return pl.DataFrame(answer)
    raise TypeError(f"it gave a {type(answer).__name__}, not a DataFrame")


def _refuse_queries(resolver: Resolver, answer: Any) -> None:
    if type(answer).__module__.startswith("chalk.sql"):
        raise DefinitionError(
            f"{resolver.place}: resolver {resolver.fqn!r} returns a SQL query, which is not run.",
            "Give its rows as a source: `--source NAME=PATH`.",
            resolver.fqn,
        )
