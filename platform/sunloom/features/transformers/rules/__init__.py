"""For each type of step: what it learns, and which operations that makes."""

from sunloom.features.transformers.rules.protocol import Fitted, Rule, StepLike
from sunloom.features.transformers.rules.table import rule_of

__all__ = ["Fitted", "Rule", "StepLike", "rule_of"]
