"""For each type of step: what it learns, and which operations that makes."""

from collections.abc import Mapping

from sunloom.errors import NotFoundError
from sunloom.preprocessing.estimators.encoders import CATEGORICAL
from sunloom.preprocessing.estimators.image_features import VISUAL
from sunloom.preprocessing.estimators.imputers import IMPUTING
from sunloom.preprocessing.estimators.interactions import COMBINING
from sunloom.preprocessing.estimators.protocol import Estimator, StepLike
from sunloom.preprocessing.estimators.scalers import NUMERIC
from sunloom.preprocessing.estimators.text_features import TEXTUAL
from sunloom.preprocessing.estimators.time_features import TEMPORAL
from sunloom.preprocessing.estimators.vectors import NEIGHBOURS

RULES: Mapping[str, Estimator] = {
    **NUMERIC,
    **IMPUTING,
    **COMBINING,
    **CATEGORICAL,
    **TEMPORAL,
    **TEXTUAL,
    **VISUAL,
    **NEIGHBOURS,
}
"""Type of a step to its rule."""


def rule_of(step: StepLike) -> Estimator:
    """The rule of a step's type.

    Raises:
        NotFoundError: No such type.
    """
    if step.type not in RULES:
        raise NotFoundError(f"There is no step {step.type!r}.", known=RULES, name=step.type)
    return RULES[step.type]
