"""Time: nothing is learnt, but the columns are named and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
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
from sunloom.preprocessing.column_kinds import Kind, require_kind
from sunloom.preprocessing.estimators.protocol import Estimator, FittedStep, Learnt, Schema, always
from sunloom.preprocessing.operations.datetimes import CYCLES, CalendarParts, Cycle, Since
from sunloom.preprocessing.operations.history import RowHistory
from sunloom.preprocessing.operations.holidays import check_rules

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _calendar(step: Calendar, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    _require_zone(step.time_zone)
    check_rules(step.holidays)
    if ("is_holiday" in step.parts) != bool(step.holidays):
        raise ConfigError(
            "calendar: the part is_holiday and the key holidays go together.", param="holidays"
        )
    return FittedStep(
        [CalendarParts(n, step.parts, step.time_zone, step.holidays) for n in columns]
    )


def _cyclic(step: Cyclic, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    _require_zone(step.time_zone)
    if step.period is not None:
        return FittedStep([Cycle(name, "", step.period) for name in columns])
    return FittedStep(
        [
            Cycle(name, part, *CYCLES[part], step.time_zone)
            for name in columns
            for part in step.parts
        ]
    )


def _cyclic_columns(step: Cyclic, columns: Sequence[str], schema: Schema) -> Learnt:
    kind: Kind = "time" if step.period is None else "number"
    require_kind(schema, columns, [kind], "cyclic")
    return {}


def _since(step: TimeSince, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    if step.until is not None:
        chosen = [name for name in columns if name != step.until]
        return FittedStep([Since(name, step.unit, step.until) for name in chosen])
    assert step.moment is not None
    gap = step.moment - _EPOCH
    micros = (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds
    return FittedStep([Since(name, step.unit, None, micros) for name in columns])


def _until(step: TimeSince, _columns: Sequence[str], schema: Schema) -> Learnt:
    if step.until is not None:
        _require_columns(schema, [step.until], "time_since")
        require_kind(schema, [step.until], ["time"], "time_since")
    return {}


def _series(step: Any, _columns: Sequence[str], schema: Schema) -> Learnt:
    _require_columns(schema, [step.time, *step.by], step.type)
    require_kind(schema, [step.time], ["time"], step.type)
    return {}


def _lags(step: Lags, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    lengths = tuple(float(n) for n in step.periods)
    names = [f"{c}_lag_{n}" for c in columns for n in step.periods]
    return _history(step, columns, names, lengths)


def _rolling(step: Rolling, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    lengths = tuple(window.total_seconds() for window in step.windows)
    names = [f"{c}_{a}_{_seconds(n)}" for c in columns for n in lengths for a in step.aggregations]
    return _history(step, columns, names, lengths, step.aggregations)


def _expanding(step: Expanding, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    names = [f"{c}_{a}_so_far" for c in columns for a in step.aggregations]
    return _history(step, columns, names, (0.0,), step.aggregations)


def _weighted(step: ExponentiallyWeighted, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    lengths = tuple(one.total_seconds() for one in step.half_lives)
    names = [f"{c}_ewm_{_seconds(n)}" for c in columns for n in lengths]
    return _history(step, columns, names, lengths)


def _history(
    step: Any,
    columns: Sequence[str],
    names: Sequence[str],
    lengths: tuple[float, ...],
    aggregations: tuple[str, ...] = ("",),
) -> FittedStep:
    made = RowHistory(
        tuple(names), step.type, tuple(columns), step.time, step.by, lengths, aggregations
    )
    return FittedStep([made])


def _seconds(length: float) -> str:
    return f"{length:.0f}s" if length.is_integer() else f"{length!r}s"


def _require_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(f"There is no time zone {name!r}.", param="time_zone") from error


def _require_columns(schema: Schema, names: Sequence[str], step: str) -> None:
    require_columns(pl.Schema(dict(schema)), names, f"The table for {step}")


def _nothing(_step: Any, _columns: Sequence[str], _schema: Schema) -> Learnt:
    return {}


def _by_period(step: Cyclic) -> tuple[Kind, ...]:
    return ("time",) if step.period is None else ("number",)


TEMPORAL: Mapping[str, Estimator] = {
    "calendar": Estimator(("time",), _nothing, _calendar, always("time")),
    "cyclic": Estimator(("time", "number"), _cyclic_columns, _cyclic, _by_period),
    "time_since": Estimator(("time",), _until, _since, always("time")),
    "lags": Estimator(("number", "bool"), _series, _lags, always("number")),
    "rolling": Estimator(("number", "bool"), _series, _rolling, always("number")),
    "expanding": Estimator(("number", "bool"), _series, _expanding, always("number")),
    "exponentially_weighted": Estimator(("number", "bool"), _series, _weighted, always("number")),
}
