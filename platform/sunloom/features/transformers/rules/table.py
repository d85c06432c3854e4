"""For each type of step: what it learns, and which operations that makes."""

from collections.abc import Mapping

from sunloom.errors import NotFoundError
from sunloom.features.transformers.rules.categorical import CATEGORICAL
from sunloom.features.transformers.rules.combining import COMBINING
from sunloom.features.transformers.rules.imputing import IMPUTING
from sunloom.features.transformers.rules.neighbours import NEIGHBOURS
from sunloom.features.transformers.rules.numeric import NUMERIC
from sunloom.features.transformers.rules.protocol import Rule, StepLike
from sunloom.features.transformers.rules.temporal import TEMPORAL
from sunloom.features.transformers.rules.textual import TEXTUAL
from sunloom.features.transformers.rules.visual import VISUAL

RULES: Mapping[str, Rule] = {
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


def rule_of(step: StepLike) -> Rule:
    """The rule of a step's type.

    Raises:
        NotFoundError: No such type.
    """
    if step.type not in RULES:
        raise NotFoundError(f"There is no step {step.type!r}.", known=RULES, name=step.type)
    return RULES[step.type]
