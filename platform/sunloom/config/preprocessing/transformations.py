"""Configuration under ``transformations``: the short form or a list of steps, and file paths."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from sunloom.config.data import ValidationConfig
from sunloom.config.loading.model import Model
from sunloom.config.names import Alias, Name
from sunloom.config.preprocessing.steps import Step
from sunloom.config.settings import Settings
from sunloom.errors import ConfigError

Method = Literal[
    "target_encoding",
    "one_hot_encoding",
    "ordinal_encoding",
    "frequency_encoding",
    "target_encoder",
    "one_hot_encoder",
    "ordinal_encoder",
    "frequency_encoder",
]
Scaler = Literal[
    "standard_scaler",
    "min_max_scaler",
    "max_abs_scaler",
    "robust_scaler",
    "quantile_transformer",
    "power_transformer",
]


class CategoricalEncoding(Model):
    """How category columns (text, categories) become numbers."""

    method: Method
    """The encoder, by the mission's name or scikit-learn's."""
    smoothing: Literal["auto"] | Annotated[float, Field(ge=0)] | None = None
    """Target encoding only: weight of the overall mean, in rows; ``auto`` when empty."""

    @property
    def encoder(self) -> str:
        """The step's type."""
        return self.method.replace("_encoding", "_encoder")

    @model_validator(mode="after")
    def _check_smoothing(self) -> CategoricalEncoding:
        if self.smoothing is not None and self.encoder != "target_encoder":
            raise ValueError("smoothing goes with target_encoding only")
        return self


class NumericalScaling(Model):
    """How number columns are scaled."""

    method: Scaler
    """The scaler, with scikit-learn's defaults."""


class MissingValues(Model):
    """Imputation of missing values, before any other step."""

    strategy: Literal[
        "mean", "median", "most_frequent", "constant", "iterative_imputer", "knn_imputer"
    ]
    """``most_frequent`` and ``constant`` fill category columns too, the others number columns.
    ``iterative_imputer`` predicts a value from the other columns, ``knn_imputer`` takes it from the
    nearest rows, both with scikit-learn's defaults."""
    fill_value: str | float | None = None
    """For ``constant``: 0 for numbers and ``missing_value`` for text when empty."""

    @model_validator(mode="after")
    def _check_fill_value(self) -> MissingValues:
        if self.fill_value is not None and self.strategy != "constant":
            raise ValueError("fill_value goes with strategy constant only")
        return self


class ShortForm(Model):
    """The same steps for every column of a kind; missing values first.

    Numbers are integers and floats, categories are text; true and false, dates and the target
    stay as they are.
    """

    missing_values: MissingValues | None = None
    """Impute missing values."""
    categorical_encoding: CategoricalEncoding | None = None
    """Encode categories."""
    numerical_scaling: NumericalScaling | None = None
    """Scale numbers."""
    target: str | None = None
    """The target's column: target encoding learns from it, and nothing changes it. Fitting a target
    encoding needs it."""
    exclude: tuple[str, ...] = ()
    """Columns that stay as they are, such as keys."""

    @model_validator(mode="after")
    def _check_parts(self) -> ShortForm:
        parts = (self.missing_values, self.categorical_encoding, self.numerical_scaling)
        if not any(parts):
            raise ValueError(
                "one of missing_values, categorical_encoding, numerical_scaling is needed"
            )
        return self

    def require_target(self) -> None:
        """Check that target encoding has a target to learn from.

        Raises:
            ConfigError: It has none.
        """
        encoding = self.categorical_encoding
        if encoding is not None and encoding.encoder == "target_encoder" and self.target is None:
            raise ConfigError(
                "The recipe has no transformations.target, from which target_encoding learns.",
                "Name the target's column: --set transformations.target=COLUMN, or in the recipe.",
                "transformations.target",
            )


def _require_steps(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if not steps:
        raise ValueError("the list of steps is empty")
    return steps


# The union is chosen by form: steps are a list, the short form is a mapping.
def _tag_of(value: Any) -> str:
    return "ShortForm" if isinstance(value, dict | ShortForm) else "StandardScaler"


# A tag that is the name of a class inside the union is left out of keys in error messages.
Transformations = Annotated[
    Annotated[ShortForm, Tag("ShortForm")]
    | Annotated[tuple[Step, ...], AfterValidator(_require_steps), Tag("StandardScaler")],
    Discriminator(_tag_of),
]


class FittedForm(Model):
    """A recipe that was fitted before."""

    artifact: str
    """Its folder, or ``name``, ``name@version`` or ``name@alias`` of the registry."""


# A key of the short form is never ``artifact``.
def _feature_tag_of(value: Any) -> str:
    names_artifact = isinstance(value, dict) and "artifact" in value
    return "FittedForm" if names_artifact or isinstance(value, FittedForm) else _tag_of(value)


FeatureTransformations = Annotated[
    Annotated[FittedForm, Tag("FittedForm")]
    | Annotated[ShortForm, Tag("ShortForm")]
    | Annotated[tuple[Step, ...], AfterValidator(_require_steps), Tag("StandardScaler")],
    Discriminator(_feature_tag_of),
]


class PreparedConfig(Model):
    """The prepared form of a feature set: written beside it, under a name of its own."""

    feature_set: str | None = None
    """Name of the prepared set in the online store; ``<feature_set>_prepared`` when empty."""
    cutoffs: tuple[date, ...] = ()
    """Cut-offs whose rows are fitted on. When empty: all but the latest, which models are evaluated
    on, or the only one."""
    name: Name | None = None
    """Name in the registry for what was fitted; nothing is registered when empty."""
    alias: Alias | None = None
    """Alias that moves to the new version."""


class PreparationConfig(Model):
    """Input and output of fitting and transforming, and the engine."""

    # Optional: the command line may name the paths instead of the recipe.
    input: Path | None = None
    """Rows: a Parquet, CSV or JSON-lines file, or a folder of them."""
    artifact: Path | None = None
    """Folder of the fitted artifact."""
    out: Path | None = None
    """Parquet file of prepared rows; when fitting, the training rows (out-of-fold)."""
    engine: Literal["polars", "ray"] = "polars"
    """Where it runs: in this process, or on the cluster."""
    memory_bytes: int = Field(default=1_000_000_000, ge=1_000_000)
    """Memory for exact medians and quantiles; beyond it a sketch whose error is stated."""
    name: Name | None = None
    """Name in the registry; nothing is registered when empty."""
    alias: Alias | None = None
    """Alias that moves to the new version."""


class PreparationRecipe(Settings):
    """Prepare the columns of a table, without feature definitions."""

    transformations: Transformations | None = None
    """The short form, or a list of steps."""
    preparation: PreparationConfig = PreparationConfig()
    """Input, artifact, output."""
    validation: ValidationConfig | None = None
    """Rules of ``sunloom features validate`` for the same rows; not read by preprocessing."""
