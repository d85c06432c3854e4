"""Table of the estimators, by type of step."""

from collections.abc import Mapping

from sunloom.errors import NotFoundError
from sunloom.preprocessing.estimators.encoders import ENCODERS
from sunloom.preprocessing.estimators.imputers import IMPUTERS
from sunloom.preprocessing.estimators.interactions import INTERACTIONS
from sunloom.preprocessing.estimators.protocol import Estimator, StepLike
from sunloom.preprocessing.estimators.scalers import SCALERS
from sunloom.preprocessing.estimators.text_and_images import TEXT_AND_IMAGES
from sunloom.preprocessing.estimators.time_features import TIME_FEATURES
from sunloom.preprocessing.estimators.vectors import VECTORS

ESTIMATORS: Mapping[str, Estimator] = {
    **SCALERS,
    **IMPUTERS,
    **INTERACTIONS,
    **ENCODERS,
    **TIME_FEATURES,
    **TEXT_AND_IMAGES,
    **VECTORS,
}
"""Type of a step to its estimator."""


def estimator_of(step: StepLike) -> Estimator:
    """The estimator of a step's type.

    Raises:
        NotFoundError: No such type.
    """
    if step.type not in ESTIMATORS:
        raise NotFoundError(f"There is no step {step.type!r}.", known=ESTIMATORS, name=step.type)
    return ESTIMATORS[step.type]
