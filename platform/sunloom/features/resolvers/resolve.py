"""Calls of a resolver for many rows: row by row, or in frames in which each key stands once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl

from sunloom.features.definitions.resolver_calls import LoadedResolver, load_resolver
from sunloom.features.expressions.literals import constant_value
from sunloom.features.expressions.to_polars import ToPolars
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.expressions import Aggregate, Argument, Expr, Resolver
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.resolvers.invoke import Outcome, TimedCaller, attempt, attempt_async
from sunloom.features.resolvers.results import Label, ResolverResults, to_series

_ROW = "__row__"


def resolve_frame(
    resolver: Resolver, frame: pl.DataFrame, key: str, parts: Mapping[Expr, str] | None = None
) -> ResolverResults:
    """Call a resolver for every row of a frame.

    Args:
        resolver: The resolver.
        frame: Rows with the features that the arguments name.
        key: The rows' key, for messages.
        parts: Aggregates and lookups to the columns that hold their values already.
    """
    to_polars = ToPolars(parts)
    columns = [to_polars.expression(arg.value).alias(arg.name) for arg in resolver.args]
    args = frame.select(columns) if columns else frame.select([])

    def label(row: int) -> str:
        as_of = f" at {frame[NOW][row].isoformat()}" if NOW in frame.columns else ""
        return f"{key} {frame[key][row]!r}{as_of}"

    return resolve(resolver, args, label)


def resolve(resolver: Resolver, args: pl.DataFrame, label: Label = str) -> ResolverResults:
    """Call a resolver for every row of its arguments.

    Args:
        resolver: The resolver.
        args: One column an argument, named as it is; rows of a has-many as lists of structs.
        label: Describes a row for messages.
    """
    loaded = load_resolver(resolver)
    if resolver.shape == "frame":
        return _resolve_by_frames(resolver, loaded, args, label)
    columns = [_argument_values(arg, args[arg.name]) for arg in resolver.args]
    return _resolve_by_rows(resolver, loaded, list(zip(*columns, strict=True)), label)


def resolve_rows(
    resolver: Resolver, rows: Sequence[Sequence[Any]], now: datetime
) -> list[Mapping[str, Any]]:
    """Call a resolver for rows of plain values; raises as ``ResolverResults.column`` does.

    Args:
        resolver: The resolver.
        rows: For each, one value an argument.
        now: The rows' as-of time, for messages.
    """

    def label(row: int) -> str:
        return f"{tuple(rows[row])!r} at {now.isoformat()}"

    if resolver.shape == "frame":
        schema = {arg.name: POLARS[arg.value.dtype] for arg in resolver.args}
        results = resolve(resolver, pl.DataFrame(rows, schema=schema, orient="row"), label)
    else:
        results = _resolve_by_rows(resolver, load_resolver(resolver), rows, label)
    names = [output.name for output in resolver.outputs]
    columns = [results.column(name).to_list() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _argument_values(arg: Argument, column: pl.Series) -> Iterator[Any]:
    if isinstance(arg.value, Aggregate):
        # The rows of a has-many reach the function as a DataFrame.
        return (rows.struct.unnest() for rows in column)
    return iter(column.to_list())


def _resolve_by_rows(
    resolver: Resolver, loaded: LoadedResolver, rows: Sequence[Sequence[Any]], label: Label
) -> ResolverResults:
    filled = [_fill_defaults(resolver, row) for row in rows]
    # A row without a needed argument is not called for: its outputs are null.
    called = [row for row, values in enumerate(filled) if values is not None]
    outcomes = _call_each(resolver, loaded, [filled[row] for row in called])
    outputs: list[Mapping[str, Any] | None] = [None] * len(filled)
    failures: dict[int, str] = {}
    for row, (value, cause) in zip(called, outcomes, strict=True):
        if cause is None:
            # A result of another form fails this row alone.
            value, cause = attempt(lambda value=value: loaded.outputs(value))  # type: ignore[misc]
        if cause is None:
            outputs[row] = value
        else:
            failures[row] = cause
    return ResolverResults(resolver, to_series(resolver, outputs, failures), failures, label)


def _fill_defaults(resolver: Resolver, values: Sequence[Any]) -> Sequence[Any] | None:
    """The values to call with, or None where a needed one is missing."""
    filled = list(values)
    for place, arg in enumerate(resolver.args):
        if filled[place] is not None:
            continue
        if arg.default is not None:
            filled[place] = constant_value(arg.default)
        elif arg.required:
            return None
    return filled


def _call_each(resolver: Resolver, loaded: LoadedResolver, rows: Sequence[Any]) -> list[Outcome]:
    calls = [partial(loaded.call, values) for values in rows]
    if loaded.is_async:
        return attempt_async(calls, resolver.timeout_s)
    if resolver.timeout_s is None:
        return [attempt(call) for call in calls]
    with closing(TimedCaller(resolver.timeout_s, resolver.fqn)) as caller:
        return [caller.attempt(call) for call in calls]


def _resolve_by_frames(
    resolver: Resolver, loaded: LoadedResolver, args: pl.DataFrame, label: Label
) -> ResolverResults:
    key = next(arg.name for arg in resolver.args if arg.required)
    indexed = args.with_row_index(_ROW)
    known = indexed.filter(pl.col(key).is_not_null())
    failures: dict[int, str] = {}
    schema = {output.name: POLARS[output.dtype] for output in resolver.outputs}
    # The first part types the result where there is no batch; UInt32 is Polars' row index.
    parts = [pl.DataFrame(schema={_ROW: pl.UInt32(), **schema})]
    for batch in _batches(known, key, resolver.batch_rows):
        frame = batch.drop(_ROW)
        outcome, cause = _call_each(resolver, loaded, [[frame]])[0]
        if cause is None:
            outcome, cause = attempt(
                lambda answer=outcome, frame=frame: _align_by_key(  # type: ignore[misc]
                    resolver, frame, key, loaded.outputs(answer)
                )
            )
        if cause is None:
            parts.append(outcome.insert_column(0, batch[_ROW]))
        else:
            failures |= dict.fromkeys(batch[_ROW].to_list(), cause)
    rows = indexed.select(_ROW).join(pl.concat(parts), on=_ROW, how="left", maintain_order="left")
    values = {output.name: rows[output.name] for output in resolver.outputs}
    for output in resolver.outputs:
        column = values[output.name]
        if output.required and column.null_count():
            cause = f"it gave nothing for {output.name!r}, which is not nullable"
            # The function is not called for rows without a key: their nulls are no failure.
            for row in known[_ROW].to_list():
                if column[row] is None:
                    failures.setdefault(row, cause)
    return ResolverResults(resolver, values, failures, label)


def _batches(known: pl.DataFrame, key: str, most: int | None) -> Iterator[pl.DataFrame]:
    """Frames in which each key stands once: the same key at another time goes into the next."""
    turn = pl.int_range(pl.len()).over(key)
    for part in known.with_columns(turn.alias("__turn__")).partition_by(
        "__turn__", maintain_order=True, include_key=False
    ):
        yield from part.iter_slices(most or max(part.height, 1))


def _align_by_key(
    resolver: Resolver, query: pl.DataFrame, key: str, answer: pl.DataFrame
) -> pl.DataFrame:
    """The columns that the resolver gave, in the order of the keys that it was called with."""
    own = key.split(".")[-1]
    missing = [n for n in (own, *(o.name for o in resolver.outputs)) if n not in answer.columns]
    if missing:
        raise TypeError(f"its DataFrame lacks {missing[0]!r}; it has {answer.columns}")
    repeated = answer[own].filter(answer[own].is_duplicated())
    if repeated.len():
        raise ValueError(f"its DataFrame has key {repeated[0]!r} more than once")
    # Through pandas a key may come back in another type, which a join would refuse.
    columns = [pl.col(own).cast(query.schema[key])]
    columns += [pl.col(output.name).cast(POLARS[output.dtype]) for output in resolver.outputs]
    keys = query.select(pl.col(key).alias(own))
    matched = keys.join(answer.select(columns), on=own, how="left", maintain_order="left")
    return matched.drop(own)
