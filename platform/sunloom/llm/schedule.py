"""The learning rate over a run."""

from __future__ import annotations

import math

from sunloom.config.llm import TrainingConfig

_FLOOR = 0.01


# A pure function of the step: a resumed run needs no scheduler state.
def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up to the peak, then a cosine down to a hundredth of it.

    Args:
        step: Steps done before this one.
        config: Peak, warm-up and length.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        # From step + 1: a rate of 0 would waste the first batch.
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, config.steps - warmup)
    return peak * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * share)))
