"""One class for each transformer that a step of ``transformations`` can name.

Types are scikit-learn's class names in snake case, parameters have its names. Where a default
differs from scikit-learn's, the parameter says so.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from sunloom.config.loading.model import Model
from sunloom.config.preprocessing.embedding_steps import EmbeddingTable, NearestNeighbors
from sunloom.config.preprocessing.image_steps import ImageEmbeddings, ImageStatistics
from sunloom.config.preprocessing.text_steps import (
    HashingVectorizer,
    Language,
    SentenceEmbeddings,
    Sentiment,
    TextStatistics,
    TfidfVectorizer,
)
from sunloom.config.preprocessing.time_steps import (
    Calendar,
    Cyclic,
    Expanding,
    ExponentiallyWeighted,
    Lags,
    Rolling,
    TimeSince,
)

Columns = tuple[str, ...] | None
# pydantic tries the exact type first, so a level keeps the type that it has in YAML.
Level = str | int | float | bool


class StandardScaler(Model):
    """Subtract the mean, divide by the standard deviation."""

    type: Literal["standard_scaler"] = "standard_scaler"
    columns: Columns = None
    """Number columns; all of them when empty."""
    with_mean: bool = True
    """Whether the mean is subtracted."""
    with_std: bool = True
    """Whether the standard deviation divides."""


class MinMaxScaler(Model):
    """Map the range seen when fitting to another one."""

    type: Literal["min_max_scaler"] = "min_max_scaler"
    columns: Columns = None
    """Number columns; all of them when empty."""
    feature_range: tuple[float, float] = (0.0, 1.0)
    """Minimum and maximum of the result."""
    clip: bool = False
    """Whether values outside the range seen when fitting are clipped to its ends."""

    @model_validator(mode="after")
    def _check_range(self) -> MinMaxScaler:
        if self.feature_range[0] >= self.feature_range[1]:
            raise ValueError("feature_range must rise")
        return self


class MaxAbsScaler(Model):
    """Divide by the greatest absolute value."""

    type: Literal["max_abs_scaler"] = "max_abs_scaler"
    columns: Columns = None
    """Number columns; all of them when empty."""
    clip: bool = False
    """Whether values beyond the greatest seen when fitting are clipped to -1 and 1."""


class RobustScaler(Model):
    """Subtract the median, divide by the distance between two quantiles."""

    type: Literal["robust_scaler"] = "robust_scaler"
    columns: Columns = None
    """Number columns; all of them when empty."""
    with_centering: bool = True
    """Whether the median is subtracted."""
    with_scaling: bool = True
    """Whether the distance divides."""
    quantile_range: tuple[float, float] = (25.0, 75.0)
    """The two quantiles, percent."""
    unit_variance: bool = False
    """Whether normally distributed values get variance 1."""

    @model_validator(mode="after")
    def _check_range(self) -> RobustScaler:
        low, high = self.quantile_range
        if not 0 <= low < high <= 100:
            raise ValueError("quantile_range must rise between 0 and 100")
        return self


class QuantileTransformer(Model):
    """Map values to their rank, uniform or normal. All rows are used: there is no ``subsample``."""

    type: Literal["quantile_transformer"] = "quantile_transformer"
    columns: Columns = None
    """Number columns; all of them when empty."""
    n_quantiles: int = Field(default=1000, ge=2)
    """Quantiles that are kept; at most the number of rows."""
    output_distribution: Literal["uniform", "normal"] = "uniform"
    """Distribution of the result."""


class PowerTransformer(Model):
    """A power chosen by maximum likelihood so that values look normal."""

    type: Literal["power_transformer"] = "power_transformer"
    columns: Columns = None
    """Number columns; all of them when empty."""
    method: Literal["yeo-johnson", "box-cox"] = "yeo-johnson"
    """``box-cox`` takes positive values only."""
    standardize: bool = True
    """Whether the result gets mean 0 and variance 1."""


class SimpleImputer(Model):
    """Replace missing values by one value per column."""

    type: Literal["simple_imputer"] = "simple_imputer"
    columns: Columns = None
    """All number columns when empty, and category columns too where the strategy fits them."""
    strategy: Literal["mean", "median", "most_frequent", "constant"] = "mean"
    """What replaces a missing value; among equally frequent ones the least."""
    fill_value: Level | None = None
    """For ``constant``: 0 for numbers and ``missing_value`` for text when empty."""
    add_indicator: bool = False
    """Whether ``missingindicator_<column>`` says where a value was missing when fitting."""
    keep_empty_features: bool = False
    """Whether a column without any value stays, as zeros; else it is left out."""

    @model_validator(mode="after")
    def _check_fill_value(self) -> SimpleImputer:
        if self.fill_value is not None and self.strategy != "constant":
            raise ValueError("fill_value goes with strategy constant only")
        return self


class IterativeImputer(Model):
    """Predict missing values from the other columns, round by round (Bayesian ridge)."""

    type: Literal["iterative_imputer"] = "iterative_imputer"
    columns: Columns = None
    """Number columns; all of them when empty."""
    max_iter: int = Field(default=10, ge=1)
    """Rounds."""
    tol: float = Field(default=1e-3, gt=0)
    """Change below which the rounds stop."""
    initial_strategy: Literal["mean", "median", "most_frequent"] = "mean"
    """What stands in before the first round."""
    min_value: float | None = None
    """Least value that is filled in."""
    max_value: float | None = None
    """Greatest value that is filled in."""
    # Rounds of regressions need their rows in memory at once.
    max_rows: int = Field(default=100_000, ge=10)
    """Rows that are learnt from; of more, a sample that depends on the row number only."""


class PolynomialFeatures(Model):
    """All products of the columns up to a degree; they take the columns' place."""

    type: Literal["polynomial_features"] = "polynomial_features"
    columns: Columns = None
    """Number columns; all of them when empty."""
    degree: int | tuple[int, int] = 2
    """Greatest degree, or least and greatest."""
    interaction_only: bool = False
    """Whether powers of one column are left out."""
    include_bias: bool = True
    """Whether there is a column ``1``."""


class Interactions(Model):
    """Products and ratios of two columns, appended; those that say most of the target."""

    type: Literal["interactions"] = "interactions"
    columns: Columns = None
    """Number columns; all of them when empty."""
    operations: tuple[Literal["product", "ratio"], ...] = ("product", "ratio")
    """What is computed: ``a*b``, and ``a/b`` and ``b/a`` (null where the divisor is 0)."""
    top_k: int = Field(default=10, ge=1)
    """Columns that are kept, by mutual information with the target; all without a target."""
    target: str | None = None
    """The target's column; never transformed."""
    bins: int = Field(default=16, ge=2)
    """Equally filled bins of the mutual information."""
    max_rows: int = Field(default=100_000, ge=10)
    """Rows that are learnt from; of more, a sample that depends on the row number only."""


class KBinsDiscretizer(Model):
    """Intervals. All rows are used: there is no ``subsample``."""

    type: Literal["k_bins_discretizer"] = "k_bins_discretizer"
    columns: Columns = None
    """Number columns; all of them when empty."""
    n_bins: int = Field(default=5, ge=2)
    """Intervals per column."""
    # In place by default: one column stays one column for the steps after it.
    encode: Literal["onehot", "onehot-dense", "ordinal"] = "ordinal"
    """``ordinal``, which is not scikit-learn's default, gives the interval's number in place."""
    strategy: Literal["uniform", "quantile", "kmeans"] = "quantile"
    """How the edges are chosen."""
    quantile_method: Literal[
        "inverted_cdf",
        "averaged_inverted_cdf",
        "closest_observation",
        "interpolated_inverted_cdf",
        "hazen",
        "weibull",
        "linear",
        "median_unbiased",
        "normal_unbiased",
    ] = "averaged_inverted_cdf"
    """How ``quantile`` picks an edge (numpy's names)."""


class OneHotEncoder(Model):
    """One column of 0 and 1 per level, named ``<column>_<level>``; a missing value is a level."""

    type: Literal["one_hot_encoder"] = "one_hot_encoder"
    columns: Columns = None
    """Category columns; all of them when empty."""
    categories: Literal["auto"] | tuple[tuple[Level, ...], ...] = "auto"
    """The levels of each column; those seen when fitting by default, sorted."""
    drop: Literal["first", "if_binary"] | None = None
    """Which level gets no column."""
    # No error by default: a served row with a new level is an everyday event.
    handle_unknown: Literal["ignore", "error", "infrequent_if_exist"] = "ignore"
    """A level never seen: all zeros (scikit-learn's default is ``error``), an error, or the
    infrequent levels' column."""
    min_frequency: int | float | None = None
    """Levels seen less often (a count, or a share) share the column ``infrequent_sklearn``."""
    max_categories: int | None = Field(default=None, ge=1)
    """Most columns per source column; the rarest levels share one."""
    dtype: Literal["uint8", "float32", "float64"] = "uint8"
    """Type of the columns; scikit-learn's is float64, which takes eight times the memory."""


class OrdinalEncoder(Model):
    """The level's number in sorted order."""

    type: Literal["ordinal_encoder"] = "ordinal_encoder"
    columns: Columns = None
    """Category columns; all of them when empty."""
    categories: Literal["auto"] | tuple[tuple[Level, ...], ...] = "auto"
    """The levels of each column; those seen when fitting by default, sorted."""
    handle_unknown: Literal["use_encoded_value", "error"] = "use_encoded_value"
    """A level never seen: ``unknown_value``, or an error (scikit-learn's default)."""
    unknown_value: float | None = -1.0
    """Number of a level never seen; null when empty."""
    encoded_missing_value: float | None = None
    """Number of a missing value; null when empty."""
    min_frequency: int | float | None = None
    """Levels seen less often (a count, or a share) share the last number."""
    max_categories: int | None = Field(default=None, ge=1)
    """Most numbers; the rarest levels share one."""


class TargetEncoder(Model):
    """The target's mean by level, drawn towards the overall mean.

    Out-of-fold when rows are fitted and transformed together, as in scikit-learn. A level never
    seen gets the overall mean; rows without a target do not count.
    """

    type: Literal["target_encoder"] = "target_encoder"
    columns: Columns = None
    """Category columns; all of them when empty."""
    target: str
    """The target's column; never transformed."""
    # A count of many values is better encoded by its mean than by 100 classes.
    target_type: Literal["auto", "continuous", "binary", "multiclass"] = "auto"
    """Whether the target is a number or a class. ``auto``: as scikit-learn's, except that more
    than 100 different whole numbers are continuous."""
    smooth: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """Weight of the overall mean, in rows; ``auto`` is empirical Bayes."""
    # Folds, because a row whose encoding contains its own target would leak the label.
    cv: int = Field(default=5, ge=2)
    """Folds; a row's fold depends on its number and ``random_state`` only."""
    # Seeded by default: the same rows give the same artifact.
    random_state: int = 0
    """Seed of the folds."""


class FrequencyEncoder(Model):
    """How often the level was seen; 0 for one that never was."""

    type: Literal["frequency_encoder"] = "frequency_encoder"
    columns: Columns = None
    """Category columns; all of them when empty."""
    normalize: bool = True
    """Shares of the rows instead of counts."""


class FeatureHasher(Model):
    """Columns hashed into a fixed number of features ``hash_0`` …; nothing to learn.

    A text value counts as ``column=value``, a number as ``column`` with that value.
    """

    type: Literal["feature_hasher"] = "feature_hasher"
    columns: Columns = None
    """Category columns; all of them when empty."""
    n_features: int = Field(default=32, ge=1)
    """Columns of the result (scikit-learn's default, 1,048,576, is for sparse matrices)."""
    alternate_sign: bool = True
    """Whether half of the values count negatively, so that collisions cancel."""
    prefix: str = "hash"
    """Leading part of the columns' names."""


NumericStep = (
    StandardScaler
    | MinMaxScaler
    | MaxAbsScaler
    | RobustScaler
    | QuantileTransformer
    | PowerTransformer
    | SimpleImputer
    | IterativeImputer
    | PolynomialFeatures
    | Interactions
    | KBinsDiscretizer
)
CategoricalStep = OneHotEncoder | OrdinalEncoder | TargetEncoder | FrequencyEncoder | FeatureHasher
TextStep = (
    TextStatistics | Language | Sentiment | TfidfVectorizer | HashingVectorizer | SentenceEmbeddings
)
ImageStep = ImageStatistics | ImageEmbeddings
VectorStep = EmbeddingTable | NearestNeighbors
TimeStep = Lags | Rolling | Expanding | ExponentiallyWeighted | Calendar | Cyclic | TimeSince
Step = Annotated[
    NumericStep | CategoricalStep | TimeStep | TextStep | ImageStep | VectorStep,
    Field(discriminator="type"),
]


@cache
def _step_adapter() -> TypeAdapter[Step]:
    # Not at import: every command reads the configuration's modules, few parse a step.
    return TypeAdapter(Step)


def step_of(plain: Any) -> Step:
    """One step from plain data.

    Raises:
        pydantic.ValidationError: The data is no step.
    """
    return _step_adapter().validate_python(plain)
