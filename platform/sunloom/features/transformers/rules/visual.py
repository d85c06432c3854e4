"""Images: there is nothing to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sunloom.config.image_steps import ImageStatistics
from sunloom.features.transformers.operations.images import ImageFigures
from sunloom.features.transformers.rules.protocol import Fitted, Learnt, Rule, Schema, always


def _figures(step: ImageStatistics, columns: Sequence[str], _learnt: Learnt) -> Fitted:
    return Fitted([ImageFigures(name, step.figures, step.histogram_bins) for name in columns])


def _nothing(_step: Any, _columns: Sequence[str], _schema: Schema) -> Learnt:
    return {}


VISUAL: Mapping[str, Rule] = {
    "image_statistics": Rule(("bytes",), _nothing, _figures, always("bytes")),
}
