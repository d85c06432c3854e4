"""Estimators of time steps: nothing is learnt, but columns are named and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from sunloom.config.preprocessing.time_steps import (
    Calendar,
    Cyclic,
    Expanding,
    ExponentiallyWeighted,
    Lags,
    Rolling,
    TimeSince,
)
from sunloom.data.sources.table_files import require_columns
from sunloom.errors import ConfigError
from sunloom.preprocessing.columns import Kind, require_kind
from sunloom.preprocessing.estimators.protocol import (
    Accumulators,
    Estimator,
    FittedStep,
    for_each_column,
)
from sunloom.preprocessing.operations.datetimes import (
    CYCLES,
    CalendarParts,
    Cycle,
    ElapsedTime,
    check_rules,
    micros_of,
)
from sunloom.preprocessing.operations.history import RowHistory

HistoryStep = Lags | Rolling | Expanding | ExponentiallyWeighted


def _calendar_of(step: Calendar, name: str, _nothing: None) -> CalendarParts:
    _require_zone(step.time_zone)
    check_rules(step.holidays)
    if ("is_holiday" in step.parts) != bool(step.holidays):
        raise ConfigError(
            "calendar: the part is_holiday and the key holidays go together.", param="holidays"
        )
    return CalendarParts(name, step.parts, step.time_zone, step.holidays)


def _build_cycles(step: Cyclic, columns: Sequence[str], _accumulators: Accumulators) -> FittedStep:
    _require_zone(step.time_zone)
    if step.period is not None:
        return FittedStep([Cycle(name, "", step.period) for name in columns])
    return FittedStep(
        [
            Cycle(name, part, *CYCLES[part], step.time_zone)
            for name, part in product(columns, step.parts)
        ]
    )


def _kinds_of_cyclic(step: Cyclic) -> tuple[Kind, ...]:
    return ("time",) if step.period is None else ("number",)


def _check_cyclic(step: Cyclic, columns: Sequence[str], schema: pl.Schema) -> Accumulators:
    require_kind(schema, columns, _kinds_of_cyclic(step), step.type)
    return {}


def _build_elapsed(
    step: TimeSince, columns: Sequence[str], _accumulators: Accumulators
) -> FittedStep:
    if step.until is not None:
        # Without columns the step is for all datetimes, and the end is one of them.
        starts = [name for name in columns if name != step.until]
        return FittedStep([ElapsedTime(name, step.unit, step.until) for name in starts])
    assert step.moment is not None
    until_us = micros_of(step.moment)
    return FittedStep([ElapsedTime(name, step.unit, until_us=until_us) for name in columns])


def _check_until(step: TimeSince, _columns: Sequence[str], schema: pl.Schema) -> Accumulators:
    if step.until is not None:
        _require_time(schema, [step.until], step.until, step.type)
    return {}


def _check_history(step: HistoryStep, _columns: Sequence[str], schema: pl.Schema) -> Accumulators:
    _require_time(schema, [step.time, *step.by], step.time, step.type)
    return {}


def _require_time(schema: pl.Schema, names: Sequence[str], time: str, step: str) -> None:
    require_columns(schema, names, f"The table for {step}")
    require_kind(schema, [time], ["time"], step)


def _build_history(
    step: HistoryStep, columns: Sequence[str], _accumulators: Accumulators
) -> FittedStep:
    lengths: tuple[float, ...] = (0.0,)
    aggregations: tuple[str, ...] = ("",)
    match step:
        case Lags():
            lengths, pattern = tuple(map(float, step.periods)), "{column}_lag_{length}"
        case Rolling():
            lengths = tuple(window.total_seconds() for window in step.windows)
            aggregations, pattern = step.aggregations, "{column}_{aggregation}_{length}s"
        case Expanding():
            aggregations, pattern = step.aggregations, "{column}_{aggregation}_so_far"
        case ExponentiallyWeighted():
            lengths = tuple(half_life.total_seconds() for half_life in step.half_lives)
            pattern = "{column}_ewm_{length}s"
    operation = RowHistory(
        names=tuple(
            # A whole number of rows or seconds without its fraction: lag_1, 3600s.
            pattern.format(
                column=c, aggregation=a, length=f"{n:.0f}" if n.is_integer() else repr(n)
            )
            for c, n, a in product(columns, lengths, aggregations)
        ),
        kind=step.type,
        sources=tuple(columns),
        time=step.time,
        by=step.by,
        lengths=lengths,
        aggregations=aggregations,
    )
    return FittedStep([operation])


def _require_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(f"There is no time zone {name!r}.", param="time_zone") from error


_NUMBERS: tuple[Kind, ...] = ("number", "bool")
TIME_FEATURES: Mapping[str, Estimator] = {
    "calendar": Estimator(("time",), for_each_column(_calendar_of)),
    "cyclic": Estimator(("time", "number"), _build_cycles, _check_cyclic, _kinds_of_cyclic),
    "time_since": Estimator(("time",), _build_elapsed, _check_until),
    "lags": Estimator(_NUMBERS, _build_history, _check_history),
    "rolling": Estimator(_NUMBERS, _build_history, _check_history),
    "expanding": Estimator(_NUMBERS, _build_history, _check_history),
    "exponentially_weighted": Estimator(_NUMBERS, _build_history, _check_history),
}
