"""The recipe of a tabular model: rows, algorithms, search, gate, output."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sunloom.config.loading.model import Model
from sunloom.config.names import Alias, Name
from sunloom.config.settings import Settings


class RatioConfig(Model):
    """A column that the model derives: ``numerator / (denominator + plus)``."""

    name: str
    """Name of the derived column."""
    numerator: str
    """A feature."""
    denominator: str
    """A feature; where it is null, so is the ratio."""
    plus: float = 1.0
    """Added to the denominator, in its unit, so that zero does not divide."""


class RowsConfig(Model):
    """Training rows and evaluation rows of a model."""

    feature_set: str = "customer"
    """Folder of the rows below ``<outputs>/features``."""
    label: str = "bought_180d"
    """Column with 0 or 1."""
    entity: str = "id"
    """Column that names the entity; never a feature."""
    event_time: str = "event_time"
    """Column with the row's event time; never a feature."""
    # Labels look 180 days ahead: those of the training rows end before the judging cut-off, and
    # those of the judging rows before the log does (1998-06-30).
    train_cutoff: str = "1997-06-30"
    """Cut-off whose rows the model learns from: ``training_<cut-off>.parquet``."""
    judge_cutoff: str = "1997-12-31"
    """Later cut-off whose rows only judge; no choice is made on them."""
    train_path: Path | None = None
    """Overrides the Parquet file of the training rows."""
    judge_path: Path | None = None
    """Overrides the Parquet file of the judging rows."""
    features: tuple[str, ...] = ()
    """Features used; every numeric column but entity, time and label when empty."""
    ratios: tuple[RatioConfig, ...] = ()
    """Columns derived inside the model, in training and in serving alike."""


class RangeConfig(Model):
    """A hyperparameter drawn from an interval."""

    low: float
    """Least value."""
    high: float
    """Greatest value."""
    log: bool = False
    """Whether its logarithm is what is uniform."""
    integer: bool = False
    """Whether the value is rounded to a whole number."""

    @model_validator(mode="after")
    def _check_bounds(self) -> RangeConfig:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("low must not exceed high, and must be positive where log is true")
        return self


Scalar = bool | int | float | str
"""A hyperparameter's value."""


class AlgorithmConfig(Model):
    """One algorithm and what is searched of it."""

    name: str
    """A name of ``sunloom.tabular.algorithms.ALGORITHMS`` or of a plugin."""
    trials: int = Field(default=4, ge=1)
    """Draws from the search space."""
    fixed: dict[str, Scalar] = Field(default_factory=dict)
    """Hyperparameters held still."""
    search: dict[str, RangeConfig | tuple[Scalar, ...]] = Field(default_factory=dict)
    """Hyperparameters drawn: an interval, or a list to choose from."""


class TuningConfig(Model):
    """The search on Ray Tune."""

    folds: int = Field(default=5, ge=2)
    """Parts of the cross-validation, all inside the training cut-off."""
    cpus_per_trial: float = Field(default=1.0, gt=0)
    """Logical CPUs of a trial."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at once; as many as the cluster has room for when empty."""
    scheduler: Literal["fifo", "asha"] = "fifo"
    """``asha`` ends the worse half of the trials after ``grace_folds`` folds."""
    grace_folds: int = Field(default=2, ge=1)
    """Folds that every trial finishes under ``asha``."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """Seconds after which no further trial starts."""
    selection: Literal["one_standard_error", "lowest_loss"] = "one_standard_error"
    """``one_standard_error`` takes the simplest algorithm whose log loss in cross-validation lies
    within one standard error of the lowest: entities age between the cut-offs, and a simpler
    model carries further outside the range it has seen."""


class GateConfig(Model):
    """What a model must reach on the judging rows before it is promoted."""

    # What a plain logistic regression reaches on CDNOW's judging rows.
    min_auc: float = Field(default=0.806, ge=0, le=1)
    """Least area under the ROC curve."""
    max_calibration_error: float = Field(default=0.05, ge=0, le=1)
    """Greatest expected calibration error."""
    beat_base_rate: bool = True
    """Whether log loss must be below that of always answering the judging rows' base rate."""


class TabularOutput(Model):
    """Where the winner goes and how it speaks."""

    name: Name = "repurchase"
    """Name in the model registry."""
    alias: Alias = "production"
    """Alias that is moved to the new version when the gate holds."""
    # The words that the retail conversations teach an agent to copy.
    labels: tuple[str, str] = ("lapse", "return")
    """Names of the outcomes 0 and 1."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Probability from which the answer is the second label; when empty, the one with the
    greatest true less false positive rate in cross-validation."""
    reuse: bool = True
    """Whether a whole version of the same recipe and rows is taken instead of training again."""


class TabularRecipe(Settings):
    """Trains, judges and registers a tabular model."""

    rows: RowsConfig = RowsConfig()
    """Training and judging rows."""
    algorithms: tuple[AlgorithmConfig, ...] = (
        AlgorithmConfig(name="logistic_regression"),
        AlgorithmConfig(name="xgboost"),
        AlgorithmConfig(name="lightgbm"),
    )
    """Algorithms that compete."""
    tuning: TuningConfig = TuningConfig()
    """The search."""
    gate: GateConfig = GateConfig()
    """The bar for promotion."""
    output: TabularOutput = TabularOutput()
    """The registered model."""
