"""Images: there is nothing to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sunloom.config.preprocessing.image_steps import ImageEmbeddings, ImageStatistics
from sunloom.preprocessing.estimators.protocol import Estimator, FittedStep, Learnt, Schema, always
from sunloom.preprocessing.operations.image_embedding import EmbedImage, dimensions, pinned
from sunloom.preprocessing.operations.images import ImageFigures


def _figures(step: ImageStatistics, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    return FittedStep([ImageFigures(name, step.figures, step.histogram_bins) for name in columns])


def _embeddings(step: ImageEmbeddings, columns: Sequence[str], _learnt: Learnt) -> FittedStep:
    revision = pinned(step.model, step.revision)
    size = dimensions(step.model, revision, step.pooling)
    fitted = FittedStep()
    for name in columns:
        names = tuple(f"{name}_{i}" for i in range(size))
        how = (step.model, revision, step.pooling, step.batch_size, step.normalize, step.keep)
        fitted.operations.append(EmbedImage(name, names, *how))
    return fitted


def _nothing(_step: Any, _columns: Sequence[str], _schema: Schema) -> Learnt:
    return {}


VISUAL: Mapping[str, Estimator] = {
    "image_statistics": Estimator(("bytes",), _nothing, _figures, always("bytes")),
    "image_embeddings": Estimator(("bytes",), _nothing, _embeddings, always("bytes")),
}
