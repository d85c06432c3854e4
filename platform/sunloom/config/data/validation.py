"""The ``validation`` section of a recipe: schema, ranges, completeness, uniqueness, drift."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, model_validator

from sunloom.config.data.drift import DriftMethod, FeatureBound
from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings

ValueType = Literal["int64", "float64", "bool", "string", "datetime", "date", "duration"]
"""Types of the plan, and ``date``."""


class ColumnRule(Model):
    """Rules of one column."""

    type: ValueType | None = None
    """Type of its values; whole numbers count as ``float64``, and a float that is whole as
    ``int64``. Text is parsed in CSV and JSON lines alone."""
    required: bool = True
    """Whether the input must have the column."""
    completeness: float | None = Field(default=None, ge=0, le=1)
    """Overrides ``completeness_threshold`` for this column."""
    min: float | AwareDatetime | date | None = None
    """Least value; for text, see ``min_length``."""
    max: float | AwareDatetime | date | None = None
    """Greatest value."""
    allowed: tuple[bool | int | float | str, ...] = ()
    """The only values; any when empty."""
    pattern: str | None = None
    """Regular expression that the whole text must match."""
    min_length: int | None = Field(default=None, ge=0)
    """Least number of characters."""
    max_length: int | None = Field(default=None, ge=0)
    """Greatest number of characters."""
    unique: bool = False
    """Whether each value may occur once; counted against ``uniqueness_threshold``."""
    validity: float | None = Field(default=None, ge=0, le=1)
    """Overrides ``validity_threshold`` for this column."""

    @model_validator(mode="before")
    @classmethod
    def _expand_short_form(cls, value: Any) -> Any:
        # ``amount: float64`` is short for ``amount: {type: float64}``.
        return {"type": value} if isinstance(value, str) else value


class FreshnessRule(Model):
    """How old the newest row may be."""

    column: str = "event_time"
    """Column with the time of each row, UTC."""
    max_age: Duration
    """Greatest age of the newest row, such as ``24h``."""
    as_of: datetime | None = None
    """Time from which age is counted, with its time zone; the present when empty."""

    @model_validator(mode="after")
    def _require_zone(self) -> FreshnessRule:
        if self.as_of is not None and self.as_of.tzinfo is None:
            raise ValueError("as_of needs a time zone, such as 2026-01-31T00:00:00Z")
        return self


class ReferenceRule(Model):
    """Values that must occur in another set."""

    columns: tuple[str, ...] = Field(min_length=1)
    """Columns of the input."""
    table: Path
    """A Parquet, CSV or JSON-lines file, or a folder of them."""
    target: tuple[str, ...] = ()
    """Columns of that table, in the same order; those of the same names when empty."""
    threshold: float = Field(default=1.0, ge=0, le=1)
    """Share of the rows without nulls in ``columns`` that must occur in the table."""

    @model_validator(mode="after")
    def _require_equal_lengths(self) -> ReferenceRule:
        if self.target and len(self.target) != len(self.columns):
            raise ValueError(f"{len(self.columns)} columns, but {len(self.target)} in target")
        return self


class CheckRule(Model):
    """A custom check, by entry point of group ``sunloom.checks``."""

    check: str
    """The entry point's name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the check unchanged."""
    threshold: float = Field(default=1.0, ge=0, le=1)
    """Share of the rows that must pass."""


class ValidationConfig(Model):
    """Rules that rows must keep: schema, ranges, completeness, uniqueness, freshness, drift."""

    completeness_threshold: float = Field(default=0.95, ge=0, le=1)
    """Share of each column's values that must be present; null and NaN are missing. Keys must
    all be present."""
    uniqueness_threshold: float = Field(default=0.99, ge=0, le=1)
    """Share of distinct keys among the rows with one."""
    keys: tuple[str, ...] = ()
    """Columns that identify a row. When empty: the feature set's key or a column ``entity_id``
    or ``id``, each with ``event_time`` where there is one; else whole rows."""
    validity_threshold: float = Field(default=1.0, ge=0, le=1)
    """Share of a column's values that must have its type, range, length and pattern."""
    columns: dict[str, ColumnRule] = Field(default_factory=dict)
    """Rules by column; ``amount: float64`` is short for ``amount: {type: float64}``."""
    extra_columns: Literal["allow", "refuse"] = "allow"
    """Whether the input may have columns that ``columns`` does not name."""
    min_rows: int = Field(default=1, ge=0)
    """Least number of rows."""
    freshness: FreshnessRule | None = None
    """How old the newest row may be."""
    references: tuple[ReferenceRule, ...] = ()
    """Values that must occur in other sets."""
    checks: tuple[CheckRule, ...] = ()
    """Custom checks."""
    reference: Path | None = None
    """Rows taken as normal for drift; ``--reference`` overrides it."""
    drift_method: DriftMethod = "psi"
    """Statistic for drift; columns of text that it does not support are compared by ``psi``."""
    drift_threshold: float = Field(default=0.1, gt=0)
    """Drift from this value on; for the p-value of ``ks``, below it."""
    drift_columns: tuple[str, ...] = ()
    """Columns compared. When empty: numbers, truth values, and text of at most 100 values that
    both tables have, without keys."""
    drift_exclude: tuple[str, ...] = ()
    """Columns never compared."""
    drift_per_column: dict[str, FeatureBound] = Field(default_factory=dict)
    """Columns with a method or threshold of their own."""
    drift_sample: int = Field(default=10_000, ge=1)
    """Rows of the reference, drawn at random and without keys, that ``materialize`` keeps beside
    the set for ``POST /features/validate``."""
    drift_min_rows: int = Field(default=500, ge=1)
    """Rows from which a request is checked for drift. Of fewer, psi reaches 0.1 by chance alone:
    in 3 to 17 of 100 columns at 300 rows, in up to 2 at 500."""
    examples: int = Field(default=5, ge=0, le=100)
    """Example rows shown for each failed check."""
    chunk_rows: int = Field(default=131_072, ge=1)
    """Rows in memory at a time (Parquet)."""


class ValidationRecipe(Settings):
    """Rules for rows without feature definitions: any table, raw or with computed features."""

    validation: ValidationConfig
    """The rules."""
    # Accepted unread: unknown keys are errors, and one file may serve `validate` and `fit`.
    transformations: Any = None
    """What ``sunloom features fit`` does with the same rows; not read by the checks."""
    preparation: Any = None
    """Section of ``transformations``; not read by the checks."""


class ValidationJob(ValidationRecipe):
    """The rules and the rows to validate, for a job."""

    input: Path
    """A Parquet, CSV or JSON-lines file, or a folder of them."""
