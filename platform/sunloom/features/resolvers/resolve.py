"""Asks a resolver about many questions: row by row, or in frames in which each key stands once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import polars as pl

from sunloom.features.definitions.resolver_calls import LoadedResolver, load_resolver
from sunloom.features.expressions.literals import constant_value
from sunloom.features.plan.expressions import Aggregate, Argument, Resolver
from sunloom.features.plan.polars_dtypes import POLARS
from sunloom.features.resolvers.invoke import Outcome, TimedCaller, attempt, attempt_async
from sunloom.features.resolvers.results import Label, ResolverResults, typed

_ROW = "__row__"


def resolve(resolver: Resolver, args: pl.DataFrame, label: Label = str) -> ResolverResults:
    """Ask about every row.

    Args:
        resolver: Whom to ask.
        args: One column an argument, named as it is; rows of a has-many as lists of structs.
        label: Describes a row for messages.
    """
    loaded = load_resolver(resolver)
    if resolver.shape == "frame":
        return _by_frames(resolver, loaded, args, label)
    return _by_rows(resolver, loaded, list(_rows(resolver, args)), label)


def resolve_rows(
    resolver: Resolver, rows: Sequence[Sequence[Any]], now: datetime
) -> list[Mapping[str, Any]]:
    """Ask about rows of plain values, together; raises as ``Answers.column`` does.

    Args:
        resolver: Whom to ask.
        rows: For each, one value an argument.
        now: The rows' moment, for messages.
    """

    def label(row: int) -> str:
        return f"{tuple(rows[row])!r} at {now.isoformat()}"

    if resolver.shape == "frame":
        schema = {given.name: POLARS[given.value.dtype] for given in resolver.args}
        answers = resolve(resolver, pl.DataFrame(rows, schema=schema, orient="row"), label)
    else:
        answers = _by_rows(resolver, load_resolver(resolver), rows, label)
    names = [one.name for one in resolver.outputs]
    columns = [answers.column(name).to_list() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _rows(resolver: Resolver, args: pl.DataFrame) -> Iterator[tuple[Any, ...]]:
    columns = [_plain(given, args[given.name]) for given in resolver.args]
    return zip(*columns, strict=True)


def _plain(given: Argument, column: pl.Series) -> Iterator[Any]:
    if isinstance(given.value, Aggregate):
        return (rows.struct.unnest() for rows in column)
    return iter(column.to_list())


def _by_rows(
    resolver: Resolver, loaded: LoadedResolver, rows: Sequence[Sequence[Any]], label: Label
) -> ResolverResults:
    given = [_filled(resolver, row) for row in rows]
    asked = [row for row, values in enumerate(given) if values is not None]
    outcomes = _called(resolver, loaded, [given[row] for row in asked])
    answers: list[Mapping[str, Any] | None] = [None] * len(given)
    failures: dict[int, str] = {}
    for row, (answer, cause) in zip(asked, outcomes, strict=True):
        if cause is None:
            answer, cause = attempt(lambda answer=answer: loaded.outputs(answer))  # type: ignore[misc]
        if cause is None:
            answers[row] = answer
        else:
            failures[row] = cause
    return ResolverResults(resolver, typed(resolver, answers, failures), failures, label)


def _filled(resolver: Resolver, values: Sequence[Any]) -> Sequence[Any] | None:
    """The values to call with, or None where a needed one is missing."""
    filled = list(values)
    for place, given in enumerate(resolver.args):
        if filled[place] is not None:
            continue
        if given.default is not None:
            filled[place] = constant_value(given.default)
        elif given.required:
            return None
    return filled


def _called(resolver: Resolver, loaded: LoadedResolver, rows: Sequence[Any]) -> list[Outcome]:
    calls = [_call(loaded, values) for values in rows]
    if loaded.is_async:
        return attempt_async(calls, resolver.timeout_s)
    if resolver.timeout_s is None:
        return [attempt(call) for call in calls]
    with closing(TimedCaller(resolver.timeout_s, resolver.fqn)) as caller:
        return [caller.attempt(call) for call in calls]


def _call(loaded: LoadedResolver, values: Sequence[Any]) -> Callable[[], Any]:
    return lambda: loaded.call(values)


def _by_frames(
    resolver: Resolver, loaded: LoadedResolver, args: pl.DataFrame, label: Label
) -> ResolverResults:
    key = next(given.name for given in resolver.args if given.required)
    indexed = args.with_row_index(_ROW)
    known = indexed.filter(pl.col(key).is_not_null())
    failures: dict[int, str] = {}
    parts = [pl.DataFrame(schema=_schema(resolver))]
    for batch in _batches(known, key, resolver.batch_rows):
        frame = batch.drop(_ROW)
        outcome, cause = _called(resolver, loaded, [[frame]])[0]
        if cause is None:
            outcome, cause = attempt(
                lambda answer=outcome, frame=frame: _matched(  # type: ignore[misc]
                    resolver, frame, key, loaded.outputs(answer)
                )
            )
        if cause is None:
            parts.append(outcome.insert_column(0, batch[_ROW]))
        else:
            failures |= dict.fromkeys(batch[_ROW].to_list(), cause)
    found = indexed.select(_ROW).join(pl.concat(parts), on=_ROW, how="left", maintain_order="left")
    values = {one.name: found[one.name] for one in resolver.outputs}
    failures |= _missing(resolver, known[_ROW].to_list(), values, failures)
    return ResolverResults(resolver, values, failures, label)


def _missing(
    resolver: Resolver, asked: Sequence[int], values: Mapping[str, pl.Series], failed: Any
) -> dict[int, str]:
    missing: dict[int, str] = {}
    for output in resolver.outputs:
        if output.required and values[output.name].null_count():
            column = values[output.name]
            what = f"it gave nothing for {output.name!r}, which is not nullable"
            missing |= {row: what for row in asked if column[row] is None and row not in failed}
    return missing


def _batches(known: pl.DataFrame, key: str, most: int | None) -> Iterator[pl.DataFrame]:
    """Frames in which each key stands once: the same key at another moment goes into the next."""
    turn = pl.int_range(pl.len()).over(key)
    for part in known.with_columns(turn.alias("__turn__")).partition_by(
        "__turn__", maintain_order=True, include_key=False
    ):
        yield from part.iter_slices(most or max(part.height, 1))


def _matched(
    resolver: Resolver, asked: pl.DataFrame, key: str, answer: pl.DataFrame
) -> pl.DataFrame:
    """The answer's columns in the order of the asked keys."""
    own = key.split(".")[-1]
    lacking = [n for n in (own, *(o.name for o in resolver.outputs)) if n not in answer.columns]
    if lacking:
        raise TypeError(f"its DataFrame lacks {lacking[0]!r}; it has {answer.columns}")
    if answer[own].is_duplicated().any():
        twice = answer[own].filter(answer[own].is_duplicated())[0]
        raise ValueError(f"its DataFrame has key {twice!r} more than once")
    columns = [pl.col(own).cast(asked.schema[key])]
    columns += [pl.col(one.name).cast(POLARS[one.dtype]) for one in resolver.outputs]
    keys = asked.select(pl.col(key).alias(own))
    matched = keys.join(answer.select(columns), on=own, how="left", maintain_order="left")
    return matched.drop(own)


def _schema(resolver: Resolver) -> dict[str, pl.DataType]:
    return {_ROW: pl.UInt32(), **{one.name: POLARS[one.dtype] for one in resolver.outputs}}
