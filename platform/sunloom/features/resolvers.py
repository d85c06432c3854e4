"""Python resolvers: called for many rows at once, failures counted, results in declared types.

Rows are resolved one by one, or in frames in which each key stands once. A call that raises, times
out, or gives what its feature cannot hold is a failure: the value is null where the feature is
nullable or has a default, else the whole computation is an error.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from queue import SimpleQueue
from typing import Any

import polars as pl

from sunloom.data.exact_casts import cast_declared
from sunloom.errors import DataError, SunloomError
from sunloom.features.definitions.resolver_calls import LoadedResolver, load_resolver
from sunloom.features.expressions.literals import constant_value
from sunloom.features.expressions.to_polars import to_polars
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Aggregate, Expr, Output, Resolver
from sunloom.features.plan.feature_sets import NOW
from sunloom.features.plan.polars_dtypes import POLARS

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
    columns = [to_polars(arg.value, parts).alias(arg.name) for arg in resolver.args]

    def label(row: int) -> str:
        as_of = f" at {frame[NOW][row].isoformat()}" if NOW in frame.columns else ""
        return f"{key} {frame[key][row]!r}{as_of}"

    return resolve(resolver, frame.select(columns), label)


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
    columns = [
        # The rows of a has-many reach the function as a DataFrame.
        [rows.struct.unnest() for rows in args[arg.name]]
        if isinstance(arg.value, Aggregate)
        else args[arg.name].to_list()
        for arg in resolver.args
    ]
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
    columns = [cast_declared(answer[own], query.schema[key])]
    columns += [
        cast_declared(answer[output.name], POLARS[output.dtype]) for output in resolver.outputs
    ]
    keys = query.select(pl.col(key).alias(own))
    matched = keys.join(answer.select(columns), on=own, how="left", maintain_order="left")
    return matched.drop(own)


Label = Callable[[int], str]


@dataclass
class ResolverResults:
    """Values by output, one a row, and the failures among them.

    Attributes:
        resolver: The resolver.
        values: Output to its values.
        failures: Row to the cause of its failure; its values are null.
        label: Describes a row for messages.
    """

    resolver: Resolver
    values: Mapping[str, pl.Series]
    failures: Mapping[int, str] = field(default_factory=dict)
    label: Label = str

    def column(self, output: str) -> pl.Series:
        """The output's values.

        Raises:
            DataError: A call failed, and the output is neither nullable nor has a default.
        """
        declared = next(o for o in self.resolver.outputs if o.name == output)
        # Only the output that is read raises: nullable ones of the same call stay usable.
        if declared.required and self.failures:
            # The first row, so that the same input gives the same error.
            row = min(self.failures)
            raise DataError(
                f"Resolver {self.resolver.fqn!r} ({self.resolver.place}) failed for "
                f"{self.label(row)}: {self.failures[row]}.",
                f"{output!r} is neither nullable nor has a default: mend the function, or "
                f"annotate `| None`. Failed: {len(self.failures)} of {len(self.values[output])}.",
                output,
            )
        return self.values[output]


def to_series(
    resolver: Resolver, outputs: Sequence[Mapping[str, Any] | None], failures: dict[int, str]
) -> dict[str, pl.Series]:
    """Outputs of single calls as series; what does not fit its type is added to the failures.

    Args:
        resolver: The resolver.
        outputs: One a row: output to value, or None where there was no call or it failed.
        failures: Row to the cause of its failure.
    """
    columns = {output.name: [None] * len(outputs) for output in resolver.outputs}
    for row, values in enumerate(outputs):
        if values is None:
            continue
        try:
            conformed = {o.name: _conform_output(values[o.name], o) for o in resolver.outputs}
        except (TypeError, ValueError) as error:
            failures[row] = str(error)
            continue
        # Only a row whose outputs all conform has values: a failed one is null as a whole.
        for name, value in conformed.items():
            columns[name][row] = value
    return {
        output.name: pl.Series(output.name, columns[output.name], dtype=POLARS[output.dtype])
        for output in resolver.outputs
    }


def _conform_output(value: Any, output: Output) -> Any:
    conformed = conform_value(value, output.dtype)
    if conformed is None and output.required:
        raise TypeError(f"it gave None for {output.name!r}, which is not nullable")
    return conformed


def conform_value(value: Any, dtype: DType) -> Any:
    """The value in the declared type.

    Raises:
        TypeError: It is of another type.
        ValueError: It is a fraction, a datetime without time zone, or too large a number.
    """
    if value is None:
        return None
    # NumPy's scalars become Python's.
    if hasattr(value, "item") and not isinstance(value, pl.Series):
        value = value.item()
    if dtype in ("int64", "float64"):
        return _number(value, dtype)
    if dtype == "datetime" and isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"it gave {value.isoformat()}, a datetime without time zone")
        return value.astimezone(UTC)
    if dtype == "date" and isinstance(value, datetime):
        raise TypeError(f"it gave {value.isoformat()}, a datetime, not a date")
    expected = _PYTHON_TYPES.get(dtype) if isinstance(dtype, str) else None
    if expected is not None and not isinstance(value, expected):
        raise TypeError(f"it gave {value!r}, not {dtype}")
    return value


_PYTHON_TYPES: Mapping[str, type] = {
    "bool": bool,
    "string": str,
    "datetime": datetime,
    "date": date,
    "duration": timedelta,
}


def _number(value: Any, dtype: DType) -> int | float:
    # To Python, True is an int.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"it gave {value!r}, not {dtype}")
    if dtype == "float64":
        return float(value)
    # pandas turns whole numbers into floats where a column has gaps: those pass.
    if isinstance(value, float) and (not math.isfinite(value) or not value.is_integer()):
        raise ValueError(f"it gave {value!r}, not a whole number")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"it gave {value!r}, beyond 64 bits")
    return int(value)


Outcome = tuple[Any, str | None]
"""A value, or None and the cause of the failure."""

_MAX_ABANDONED = 16
# All rows of a batch at once would open a connection each.
_ASYNC_CALLS = 64


def attempt(call: Callable[[], Any]) -> Outcome:
    """The call's outcome; our own errors pass."""
    try:
        return call(), None
    except SunloomError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a user's function raises
        return None, _cause(error)


def _cause(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class TimedCaller:
    """Runs calls in a thread and stops waiting after the timeout.

    Python cannot end a thread: a call that overran goes on in its own, and the next call gets a
    new one. After 16 of them at once the resolver is an error.

    Args:
        timeout_s: The longest wait for one call.
        name: The resolver, for messages.
    """

    def __init__(self, timeout_s: float, name: str) -> None:
        self._timeout_s = timeout_s
        self._name = name
        self._worker: _Worker | None = None
        self._abandoned: list[_Worker] = []

    def attempt(self, call: Callable[[], Any]) -> Outcome:
        """The call's outcome.

        Raises:
            DataError: Too many earlier calls still run.
        """
        worker = self._worker or _Worker()
        self._worker = worker
        done = worker.submit(lambda: attempt(call))
        try:
            outcome: Outcome = done.result(self._timeout_s)
        except TimeoutError:
            self._abandon(worker)
            return None, f"no answer within {self._timeout_s:g} s"
        return outcome

    def close(self) -> None:
        """End the idle thread."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _abandon(self, worker: _Worker) -> None:
        # The thread ends when its call returns, if it ever does.
        worker.stop()
        self._worker = None
        self._abandoned = [w for w in (*self._abandoned, worker) if w.is_alive()]
        if len(self._abandoned) > _MAX_ABANDONED:
            raise DataError(
                f"Resolver {self._name!r}: {len(self._abandoned)} calls overran their timeout of "
                f"{self._timeout_s:g} s and still run.",
                "Give the function's own calls (HTTP, SQL) a timeout, or make it async.",
            )


class _Worker:
    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        # Not an executor: its threads are joined at exit, which a call that hangs would prevent.
        self._thread = threading.Thread(target=self._run, daemon=True, name="resolver")
        self._thread.start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        done: Future[Any] = Future()
        self._calls.put((call, done))
        return done

    def stop(self) -> None:
        self._calls.put(None)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done = item
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                done.set_exception(error)


def attempt_async(calls: Sequence[Callable[[], Any]], timeout_s: float | None) -> list[Outcome]:
    """Run awaitables together, at most 64 at once; each is ended at its timeout."""
    work = _gather(calls, timeout_s)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # A running loop cannot run another: a thread of its own can.
    worker = _Worker()
    outcomes = worker.submit(lambda: asyncio.run(work))
    worker.stop()
    return list(outcomes.result())


async def _gather(calls: Sequence[Callable[[], Any]], timeout_s: float | None) -> list[Outcome]:
    free = asyncio.Semaphore(_ASYNC_CALLS)

    async def attempt_one(call: Callable[[], Any]) -> Outcome:
        async with free:
            try:
                async with asyncio.timeout(timeout_s) as limit:
                    return await call(), None
            except SunloomError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a user's function raises
                # A TimeoutError of the function itself is reported as its own.
                if limit.expired():
                    return None, f"no answer within {timeout_s:g} s"
                return None, _cause(error)

    return await asyncio.gather(*(attempt_one(call) for call in calls))
