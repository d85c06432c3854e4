"""Recipes and sections about tables: cleaning, batch sources, drift, validation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AwareDatetime, Field, SecretStr, model_validator

from sunloom.config.loading.durations import Duration
from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings


class QualityConfig(Model):
    """How many bad rows a data set may have."""

    max_bad_share: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of quarantined rows above which the run stops; the quarantine file is kept."""


class CleaningConfig(Model):
    """How the work is partitioned."""

    blocks: int = Field(default=4, ge=1)
    """Slices and partitions that workers take; rows that might duplicate each other meet in one."""


class DataRecipe(Settings):
    """Prepare one data set: parse, check, quarantine, write Parquet."""

    dataset: str
    """Name of a data set plugin (entry point group ``sunloom.datasets``)."""
    quality: QualityConfig = QualityConfig()
    """Threshold of bad rows."""
    preparation: CleaningConfig = CleaningConfig()
    """Partitioning of the work."""

    def data_folder(self) -> Path:
        """Folder of the prepared tables."""
        return self.paths.outputs / "data" / self.dataset


class Deduplication(Model):
    """Which of a table's rows with equal values in some columns is read."""

    by: tuple[str, ...] = Field(min_length=1)
    """Column or columns that identify an event, such as ``id``. A row without a value in one of
    them repeats no other."""
    keep: Literal["first", "last"] = "last"
    """The row with the earliest or the latest event time; of equal times, the one added first or
    last. With ``last`` an event that was written again with a later time is seen from that time on
    only; ``first`` never looks ahead."""

    @model_validator(mode="before")
    @classmethod
    def _expand_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("by"), str):
            return value | {"by": (value["by"],)}
        return value


class TableSource(Model):
    """What all sources of tables have."""

    deduplicate: dict[str, Deduplication] = Field(default_factory=dict)
    """Namespace of a features class to the rule of its repeated rows, such as
    ``{orders: {by: id, keep: last}}``; of a source with one table, ``{by: id, keep: last}`` is
    enough. Without a rule an event that is there twice counts twice, and results count them
    (``repeated_ids``). Events of a topic are never deduplicated."""

    @model_validator(mode="before")
    @classmethod
    def _expand_only_rule(cls, value: Any) -> Any:
        rules = value.get("deduplicate") if isinstance(value, dict) else None
        if not isinstance(rules, dict) or isinstance(rules.get("by", {}), dict):
            return value
        names = list(value.get("tables") or ())
        if len(names) != 1:
            raise ValueError("deduplicate names the class first: {orders: {by: id, keep: last}}")
        return value | {"deduplicate": {names[0]: rules}}


class FilesSource(TableSource):
    """Rows in Parquet, CSV or JSON-lines files, or folders of them."""

    type: Literal["files"] = "files"
    tables: dict[str, Path] = Field(default_factory=dict)
    """Namespace of a features class to its file or folder."""


class DatasetSource(TableSource):
    """Tables that ``sunloom data run`` prepared, under ``<paths.outputs>/data/<dataset>``."""

    type: Literal["dataset"] = "dataset"
    dataset: str
    """Name of the data set."""
    tables: dict[str, str] = Field(default_factory=dict)
    """Namespace of a features class to the table's name."""


class SqlSource(TableSource):
    """Rows of a database that SQLAlchemy speaks to; fetched anew by each run."""

    type: Literal["sql"] = "sql"
    # Secret as a whole: a URL usually holds the password.
    url: SecretStr
    """``postgresql://user:${PASSWORD}@host/database``, ``sqlite:///file.db``, or another URL of
    SQLAlchemy whose driver is installed."""
    tables: dict[str, str] = Field(default_factory=dict)
    """Namespace of a features class to a table (``orders``, ``sales.orders``) or a ``SELECT``
    whose columns have the features' names."""
    batch_rows: int = Field(default=50_000, ge=1)
    """Rows held in memory at a time while fetching."""


class SnowflakeSource(TableSource):
    """Rows of Snowflake, through its own connector; fetched anew by each run."""

    type: Literal["snowflake"] = "snowflake"
    # Secret as a whole: it usually holds the password.
    connection_string: SecretStr | None = None
    """``snowflake://user:password@account/database/schema?warehouse=…&role=…``; characters such as
    ``@`` and ``/`` of a password are written as ``%40`` and ``%2F``. What it says is not said
    again by the fields below."""
    account: str | None = None
    """Account identifier, such as ``organization-account``."""
    user: str | None = None
    """User."""
    password: SecretStr | None = None
    """Its password, such as ``${SNOWFLAKE_PASSWORD}``."""
    private_key_file: Path | None = None
    """Its private key (PEM), instead of a password."""
    private_key_file_pwd: SecretStr | None = None
    """Passphrase of the private key."""
    role: str | None = None
    """Role; the user's default when empty."""
    warehouse: str | None = None
    """Warehouse; the user's default when empty."""
    database: str | None = None
    """Database of tables that name none."""
    # `schema` would shadow a method of pydantic's BaseModel.
    schema_name: str | None = Field(default=None, alias="schema")
    """Schema of tables that name none."""
    tables: dict[str, str] = Field(default_factory=dict)
    """Namespace of a features class to a table or a ``SELECT``. Names in capitals become lower
    case."""
    batch_rows: int = Field(default=50_000, ge=1)
    """Rows held in memory at a time while fetching."""

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        stated = parse_snowflake_url(self._url()) if self.connection_string is not None else {}
        fields = self._fields()
        if twice := [name for name in fields if name in stated]:
            raise ValueError(f"{twice[0]} is in connection_string and beside it: write it once")
        for name in ("account", "user"):
            if name not in stated | fields:
                raise ValueError(f"{name} is missing, here or in connection_string")
        return self

    def connection_options(self) -> dict[str, str]:
        """Arguments of Snowflake's connector as text, secrets in clear; unset ones are left out."""
        stated = parse_snowflake_url(self._url()) if self.connection_string is not None else {}
        options = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in self._fields().items()
        }
        if self.private_key_file is not None:
            stated.setdefault("authenticator", "SNOWFLAKE_JWT")
        return stated | options

    def _url(self) -> str:
        return self.connection_string.get_secret_value() if self.connection_string else ""

    def _fields(self) -> dict[str, str | Path | SecretStr]:
        """Argument of the connector to the field's value, without unset ones."""
        names = ["account", "user", "password", "private_key_file", "private_key_file_pwd"]
        names += ["role", "warehouse", "database"]
        values = {name: getattr(self, name) for name in names} | {"schema": self.schema_name}
        return {name: value for name, value in values.items() if value is not None}


def parse_snowflake_url(url: str) -> dict[str, str]:
    """Arguments of Snowflake's connector in ``snowflake://user:password@account/database/schema``.

    Options after ``?`` are arguments under their own names.

    Raises:
        ValueError: It is no such URL; the message holds nothing of it.
    """
    parts = urlsplit(url)
    if parts.scheme != "snowflake":
        raise ValueError("connection_string must begin with snowflake://")
    login, _, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    # The account's whole host name and port are as good as its identifier.
    account = host.partition(":")[0].removesuffix(".snowflakecomputing.com")
    database, _, schema = parts.path.strip("/").partition("/")
    named = {"account": account, "user": user, "password": password}
    named |= {"database": database, "schema": schema}
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    stated = {name: unquote(text) for name, text in named.items() if text}
    if twice := [name for name in options if name in stated]:
        raise ValueError(f"{twice[0]} is in connection_string twice")
    return stated | options


BatchSource = Annotated[
    FilesSource | DatasetSource | SqlSource | SnowflakeSource, Field(discriminator="type")
]


DriftMethod = Literal["psi", "jensenshannon", "kl_div", "wasserstein", "ks", "evidently"]
"""Evidently's names; ``ks`` gives a p-value, the others a distance. ``evidently`` is its own choice
for each column."""


class FeatureBound(Model):
    """Method and threshold of one feature, where they differ from the others'."""

    method: DriftMethod | None = None
    """Overrides the section's method."""
    threshold: float | None = None
    """Overrides the section's threshold."""


class DriftConfig(Model):
    """How distributions are compared."""

    method: DriftMethod = "psi"
    """Statistic for every feature without an entry in ``per_feature``."""
    # The customary bound of psi for a shift that matters; 0.1 counts as a moderate one.
    threshold: float = Field(default=0.2, gt=0)
    """Drift from this value on; for the p-value of ``ks``, below it."""
    features: tuple[str, ...] = ()
    """Columns compared; every numeric one but ids when empty."""
    per_feature: dict[str, FeatureBound] = Field(default_factory=dict)
    """Features with a method or threshold of their own."""
    min_rows: int = Field(default=500, ge=1)
    """Values that a feature needs in both tables to be judged; fewer are said to be too few."""
    engine: Literal["evidently", "direct"] = "evidently"
    """``direct`` computes the same numbers in a fraction of the time and writes no HTML."""
    # Numbers that are handed out in order grow with time: ids would drift in every comparison.
    exclude: tuple[str, ...] = ("id", "entity_id", "customer_id")
    """Identifiers; never compared and never in a report."""


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
    """Overrides ``quality_checks.completeness_threshold`` for this column."""
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
    """Whether each value may occur once; counted against
    ``quality_checks.uniqueness_threshold``."""
    validity: float | None = Field(default=None, ge=0, le=1)
    """Overrides ``quality_checks.validity_threshold`` for this column."""

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
    # Not AwareDatetime: its error does not say how a time zone is written.
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
    # Only the check knows which options it has.
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the check unchanged."""
    threshold: float = Field(default=1.0, ge=0, le=1)
    """Share of the rows that must pass."""


class QualityChecks(Model):
    """Shares of values and rows that must pass; one column may override them in ``columns``."""

    completeness_threshold: float = Field(default=0.95, ge=0, le=1)
    """Share of each column's values that must be present, judged column by column; null and NaN
    are missing, as for Evidently's ``MissingValueCount`` and Great Expectations' ``mostly``. Of
    ``validation.keys`` every value must be present."""
    uniqueness_threshold: float = Field(default=0.99, ge=0, le=1)
    """Share of distinct values of the primary key (``validation.keys``) among the rows with one,
    as Great Expectations' proportion of unique values; other columns are judged by it where
    ``columns`` marks them ``unique``."""
    validity_threshold: float = Field(default=1.0, ge=0, le=1)
    """Share of a column's values that must have its type, range, length and pattern."""


class DriftDetection(Model):
    """How columns are compared with the reference."""

    method: DriftMethod = "psi"
    """Statistic for drift; columns of text that it does not support are compared by ``psi``.
    ``evidently`` chooses a column's test as Evidently does. Of at most 1,000 reference values:
    ``ks`` for numbers, ``chisquare`` for text, truth values and up to five different numbers,
    ``z`` where there are at most two values. Of more: ``wasserstein`` for numbers,
    ``jensenshannon`` for the others."""
    threshold: float = Field(default=0.1, gt=0)
    """Drift from this value on; for the p-values of ``ks``, ``chisquare`` and ``z``, below it."""
    columns: tuple[str, ...] = ()
    """Columns compared. When empty: the reference's numbers, truth values, and text of at most 100
    values, without keys. One that the input lacks, or that is of another type or without values
    there, does not pass."""
    exclude: tuple[str, ...] = ()
    """Columns never compared."""
    per_column: dict[str, FeatureBound] = Field(default_factory=dict)
    """Columns with a method or threshold of their own."""
    sample: int = Field(default=10_000, ge=1)
    """Rows of the reference, drawn at random and without keys, that ``materialize`` keeps beside
    the set for ``POST /features/validate``."""
    min_rows: int = Field(default=500, ge=1)
    """Values that a column and its reference need to be judged; fewer are said to be too few. Of
    fewer, psi reaches 0.1 by chance alone: in 3 to 17 of 100 columns at 300 rows, in up to 2 at
    500."""


class ValidationConfig(Model):
    """Rules that rows must keep: schema, ranges, completeness, uniqueness, freshness, drift."""

    renamed: ClassVar[Mapping[str, str]] = {
        **{
            f"{share}_threshold": f"quality_checks.{share}_threshold"
            for share in ("completeness", "uniqueness", "validity")
        },
        **{f"drift_{name}": f"drift_detection.{name}" for name in DriftDetection.model_fields},
    }

    quality_checks: QualityChecks = QualityChecks()
    """Shares that must pass."""
    drift_detection: DriftDetection = DriftDetection()
    """The comparison with ``reference``."""
    keys: tuple[str, ...] = ()
    """Columns that identify a row. When empty: the feature set's key or a column ``entity_id``
    or ``id``, each with ``event_time`` where there is one; else whole rows."""
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


# On the command line the input is an option; a job has nothing but its recipe.
class ValidationJob(ValidationRecipe):
    """The rules and the rows to validate, for a job."""

    input: Path
    """A Parquet, CSV or JSON-lines file, or a folder of them."""
