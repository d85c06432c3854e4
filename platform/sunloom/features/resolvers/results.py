"""Results of a resolver in declared types, and the calls that failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from sunloom.errors import DataError
from sunloom.features.plan.dtypes import DType
from sunloom.features.plan.expressions import Resolver
from sunloom.features.plan.polars_dtypes import POLARS

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
            for output in resolver.outputs:
                value = conform_value(values[output.name], output.dtype)
                if value is None and output.required:
                    raise TypeError(f"it gave None for {output.name!r}, which is not nullable")
                columns[output.name][row] = value
        except (TypeError, ValueError) as error:
            failures[row] = str(error)
    return {
        output.name: pl.Series(output.name, columns[output.name], dtype=POLARS[output.dtype])
        for output in resolver.outputs
    }


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
    expected = _PYTHON_TYPES.get(dtype) if isinstance(dtype, str) else None
    if expected is not None and not isinstance(value, expected):
        raise TypeError(f"it gave {value!r}, not {dtype}")
    return value


_PYTHON_TYPES: Mapping[str, type] = {
    "bool": bool,
    "string": str,
    "datetime": datetime,
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
