"""One class for each transformer that a step of ``transformations`` can name.

Types are scikit-learn's class names in snake case, parameters have its names. Where a default
differs from scikit-learn's, the parameter says so.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from sunloom.config.loading.model import Model
from sunloom.config.preprocessing.text_and_image_steps import (
    HashingVectorizer,
    ImageEmbeddings,
    ImageStatistics,
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


class _NumberStep(Model):
    # Declared before the kinds narrow it, so that it stays a step's first key in the reference.
    type: str
    columns: Columns = None
    """Number columns; all of them when empty."""


class _CategoryStep(Model):
    type: str
    columns: Columns = None
    """Category columns; all of them when empty."""


class StandardScaler(_NumberStep):
    """Subtract the mean, divide by the standard deviation."""

    type: Literal["standard_scaler"] = "standard_scaler"
    with_mean: bool = True
    """Whether the mean is subtracted."""
    with_std: bool = True
    """Whether the standard deviation divides."""


class MinMaxScaler(_NumberStep):
    """Map the range seen when fitting to another one."""

    type: Literal["min_max_scaler"] = "min_max_scaler"
    feature_range: tuple[float, float] = (0.0, 1.0)
    """Minimum and maximum of the result."""
    clip: bool = False
    """Whether values outside the range seen when fitting are clipped to its ends."""

    @model_validator(mode="after")
    def _check_range(self) -> MinMaxScaler:
        if self.feature_range[0] >= self.feature_range[1]:
            raise ValueError("feature_range must rise")
        return self


class MaxAbsScaler(_NumberStep):
    """Divide by the greatest absolute value."""

    type: Literal["max_abs_scaler"] = "max_abs_scaler"
    clip: bool = False
    """Whether values beyond the greatest seen when fitting are clipped to -1 and 1."""


class RobustScaler(_NumberStep):
    """Subtract the median, divide by the distance between two quantiles."""

    type: Literal["robust_scaler"] = "robust_scaler"
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


class QuantileTransformer(_NumberStep):
    """Map values to their rank, uniform or normal. All rows are used: there is no ``subsample``."""

    type: Literal["quantile_transformer"] = "quantile_transformer"
    n_quantiles: int = Field(default=1000, ge=2)
    """Quantiles that are kept; at most the number of rows."""
    output_distribution: Literal["uniform", "normal"] = "uniform"
    """Distribution of the result."""


class PowerTransformer(_NumberStep):
    """A power chosen by maximum likelihood so that values look normal."""

    type: Literal["power_transformer"] = "power_transformer"
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


class IterativeImputer(_NumberStep):
    """Predict missing values from the other columns, round by round (Bayesian ridge)."""

    type: Literal["iterative_imputer"] = "iterative_imputer"
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


class KNNImputer(_NumberStep):
    """Replace a missing value by the mean of the nearest rows that have it.

    Distances are over the columns that both rows have; of a row that shares none with any, the
    column's mean counts. They are exact: scikit-learn's lose digits where values are far from 0.
    """

    type: Literal["knn_imputer"] = "knn_imputer"
    n_neighbors: int = Field(default=5, ge=1)
    """Neighbours per value."""
    weights: Literal["uniform", "distance"] = "uniform"
    """Whether neighbours count equally, or by the inverse of their distance."""
    # Each row with a gap is compared with each of these, which the artifact holds.
    max_rows: int = Field(default=20_000, ge=10)
    """Rows that are kept; of more, a sample that depends on the row number only."""


class PolynomialFeatures(_NumberStep):
    """All products of the columns up to a degree; they take the columns' place."""

    type: Literal["polynomial_features"] = "polynomial_features"
    degree: int | tuple[int, int] = 2
    """Greatest degree, or least and greatest."""
    interaction_only: bool = False
    """Whether powers of one column are left out."""
    include_bias: bool = True
    """Whether there is a column ``1``."""


class Interactions(_NumberStep):
    """Products and ratios of two columns, appended; those that say most of the target."""

    type: Literal["interactions"] = "interactions"
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


class KBinsDiscretizer(_NumberStep):
    """Intervals. All rows are used: there is no ``subsample``."""

    type: Literal["k_bins_discretizer"] = "k_bins_discretizer"
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


class OneHotEncoder(_CategoryStep):
    """One column of 0 and 1 per level, named ``<column>_<level>``; a missing value is a level."""

    type: Literal["one_hot_encoder"] = "one_hot_encoder"
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


class OrdinalEncoder(_CategoryStep):
    """The level's number in sorted order."""

    type: Literal["ordinal_encoder"] = "ordinal_encoder"
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


class TargetEncoder(_CategoryStep):
    """The target's mean by level, drawn towards the overall mean.

    Out-of-fold when rows are fitted and transformed together, as in scikit-learn. A level never
    seen gets the overall mean; rows without a target do not count.
    """

    type: Literal["target_encoder"] = "target_encoder"
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


class FrequencyEncoder(_CategoryStep):
    """How often the level was seen; 0 for one that never was."""

    type: Literal["frequency_encoder"] = "frequency_encoder"
    normalize: bool = True
    """Shares of the rows instead of counts."""


class FeatureHasher(_CategoryStep):
    """Columns hashed into a fixed number of features ``hash_0`` …; nothing to learn.

    A text value counts as ``column=value``, a number as ``column`` with that value.
    """

    type: Literal["feature_hasher"] = "feature_hasher"
    n_features: int = Field(default=32, ge=1)
    """Columns of the result (scikit-learn's default, 1,048,576, is for sparse matrices)."""
    alternate_sign: bool = True
    """Whether half of the values count negatively, so that collisions cancel."""
    prefix: str = "hash"
    """Leading part of the columns' names."""


class EmbeddingTable(Model):
    """An entity's vector from a table, ``<column>_0`` …, in the column's place.

    The table is copied into the artifact. Columns of numbers keep their names:
    ``<column>_<name>``.
    """

    type: Literal["embedding_table"] = "embedding_table"
    columns: tuple[str, ...] = Field(min_length=1)
    """Columns of keys: whole numbers or text, as the table has them."""
    table: Path
    """A ``.parquet`` or ``.safetensors`` file."""
    key: str | None = None
    """Parquet: the column of keys; the first when empty. Safetensors: the tensor of whole numbers
    or the metadata entry (a JSON list) with the keys; when empty a row's key is its number."""
    vectors: tuple[str, ...] | None = None
    """Number columns, or one column of lists, or one tensor of two dimensions; all but the key
    when empty."""
    prefix: str | None = None
    """Leading part of the columns' names; the column's own name and ``_`` when empty."""
    unseen: Literal["zeros"] | None = None
    """Vector of a key that is missing, or that the table does not have; null when empty."""

    @model_validator(mode="after")
    def _check_table(self) -> EmbeddingTable:
        if self.table.suffix not in (".parquet", ".safetensors"):
            raise ValueError("table must be a .parquet or .safetensors file")
        if self.prefix is not None and len(self.columns) > 1:
            raise ValueError("prefix goes with one column only")
        return self


_RANGE = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)")
_MOST_COLUMNS = 100_000


def _expand_ranges(columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """``review_{0..383}`` as 384 names."""
    names: list[str] = []
    for name in columns or ():
        match = _RANGE.fullmatch(name)
        if match is None:
            names.append(name)
            continue
        first, last = int(match[2]), int(match[3])
        # A bound, so that a typing error in a number does not fill the memory with names.
        if first > last or last - first >= _MOST_COLUMNS:
            raise ValueError(f"the range in {name} must rise, to {_MOST_COLUMNS:,} columns at most")
        names += [f"{match[1]}{i}{match[4]}" for i in range(first, last + 1)]
    return columns if columns is None else tuple(names)


class NearestNeighbors(Model):
    """Distances to the nearest of the rows seen when fitting, appended; the search is exact.

    They are ``<prefix>_distance_0`` …, and the mean of the neighbours' target is
    ``<prefix>_<target>``. A row that was fitted is not its own neighbour when rows are fitted and
    transformed together. A row with a missing number has null in all of them; such a row, and one
    without target, is no neighbour of any. Of equally near rows the first counts.
    """

    type: Literal["nearest_neighbors"] = "nearest_neighbors"
    columns: Annotated[tuple[str, ...] | None, AfterValidator(_expand_ranges)] = None
    """The vector's number columns; all of them when empty. Scale them first. ``review_{0..383}``
    means 384 columns, such as those that an earlier step has made."""
    n_neighbors: int = Field(default=5, ge=1)
    """Neighbours per row."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance (scikit-learn's default, minkowski with p = 2, is euclidean)."""
    target: str | None = None
    """A number column whose mean over the neighbours is appended; never transformed."""
    # The search is exact: every row is compared with each of these, which the artifact holds.
    max_rows: int = Field(default=20_000, ge=10)
    """Rows that are kept; of more, a sample that depends on the row number only."""
    prefix: str = Field(default="neighbor", min_length=1)
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
    | KNNImputer
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
