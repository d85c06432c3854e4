"""The section ``tune`` of a language model's recipe: what a search varies, and what it looks at."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sunloom.config.loading.model import Model

Value = bool | int | float | str | tuple[Any, ...] | dict[str, Any] | None
"""What a key of a recipe may be set to."""
TUNED_SECTIONS = ("model", "data", "training", "lora")
"""Sections whose keys may be varied: the others say how trials are compared and where they go."""
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?e[+-]?\d+", re.IGNORECASE)
# Another share or source would judge each trial by other conversations.
_COMPARED_BY = ("data.held_out_share", "data.conversations", "training.resume_from")


class Choice(Model):
    """One of several values."""

    type: Literal["choice"] = "choice"
    """Chooses this variant."""
    values: tuple[Value, ...] = Field(min_length=1)
    """What is chosen from; all are as likely."""

    @field_validator("values")
    @classmethod
    def _read_exponents(cls, values: tuple[Value, ...]) -> tuple[Value, ...]:
        # YAML reads 1e-4 as text.
        return tuple(
            float(v) if isinstance(v, str) and _EXPONENT.fullmatch(v) else v for v in values
        )

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all."""
        return self.values


class _Interval(Model):
    low: float
    """Least value."""
    high: float
    """Greatest value."""

    @model_validator(mode="after")
    def _is_an_interval(self) -> _Interval:
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all."""
        return self.low, self.high


class Uniform(_Interval):
    """A number of an interval; all are as likely."""

    type: Literal["uniform"] = "uniform"
    """Chooses this variant."""


class LogUniform(_Interval):
    """A positive number of an interval; every order of magnitude is as likely."""

    type: Literal["loguniform"] = "loguniform"
    """Chooses this variant."""
    low: float = Field(gt=0)
    """Least value."""


class RandInt(_Interval):
    """A whole number of an interval, both ends included."""

    type: Literal["randint"] = "randint"
    """Chooses this variant."""
    low: int
    """Least value."""
    high: int
    """Greatest value."""


SearchRange = Annotated[Choice | Uniform | LogUniform | RandInt, Field(discriminator="type")]


class Asha(Model):
    """Asynchronous successive halving: trials behind the others end early."""

    grace: int = Field(default=100, ge=1)
    """Steps that every trial does."""
    reduction: int = Field(default=3, ge=2)
    """Of so many trials one goes on after ``grace`` steps, and again after ``reduction`` times as
    many, and so forth."""


class TuneConfig(Model):
    """A search over keys of the recipe, for ``sunloom llm tune``."""

    space: dict[str, SearchRange] = Field(min_length=1)
    """Dotted key of ``model``, ``data``, ``training`` or ``lora``, such as
    ``training.learning_rate``, to what it may be."""
    trials: int = Field(default=8, ge=1)
    """Draws from the space, by ``seed``; none is made twice. More add to those that were done."""
    concurrent: int = Field(default=1, ge=1)
    """Trials at once, each with the workers that the recipe says."""
    metric: str = "eval_loss"
    """What decides: ``eval_loss`` of the last evaluation during training, or a figure of the gate
    such as ``adapter_exact_match``, ``adapter_loss`` or ``tasks.NAME``, for which each trial that
    did all its steps is judged."""
    mode: Literal["min", "max"] | None = None
    """Whether low or high is good; empty is ``min`` for a loss, else ``max``."""
    asha: Asha | None = Asha()
    """Early ends by the evaluation loss; null does all steps of every trial."""

    @property
    def is_lower_better(self) -> bool:
        """Whether the trial with the lowest figure wins."""
        return (self.mode or ("min" if "loss" in self.metric else "max")) == "min"

    @model_validator(mode="after")
    def _keys_may_be_varied(self) -> TuneConfig:
        for key in self.space:
            if key.partition(".")[0] not in TUNED_SECTIONS or key in _COMPARED_BY:
                raise ValueError(
                    f"space has {key}, which decides what trials are compared by or where they go; "
                    f"keys of {', '.join(TUNED_SECTIONS)} may be varied"
                )
        return self
