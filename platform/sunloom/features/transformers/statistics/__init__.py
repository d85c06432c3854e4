"""What fitting learns from a column, in parts that merge."""

from sunloom.features.transformers.statistics.counts import Counts
from sunloom.features.transformers.statistics.moments import Moments
from sunloom.features.transformers.statistics.protocol import Statistic
from sunloom.features.transformers.statistics.sample import Sample
from sunloom.features.transformers.statistics.targets import TargetLevels
from sunloom.features.transformers.statistics.values import Values

__all__ = ["Counts", "Moments", "Sample", "Statistic", "TargetLevels", "Values"]
