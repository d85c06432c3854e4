"""Estimators of image steps: nothing is learnt, but models are pinned to a revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sunloom.config.preprocessing.image_steps import ImageEmbeddings, ImageStatistics
from sunloom.preprocessing.estimators.protocol import Accumulators, Estimator, FittedStep
from sunloom.preprocessing.operations.image_embedding import (
    EmbedImage,
    embedding_size,
    vision_revision,
)
from sunloom.preprocessing.operations.images import ImageFigures


def _build_figures(
    step: ImageStatistics, columns: Sequence[str], _accumulators: Accumulators
) -> FittedStep:
    return FittedStep([ImageFigures(name, step.figures, step.histogram_bins) for name in columns])


def _build_embeddings(
    step: ImageEmbeddings, columns: Sequence[str], _accumulators: Accumulators
) -> FittedStep:
    revision = vision_revision(step.model, step.revision)
    size = embedding_size(step.model, revision, step.pooling)
    return FittedStep(
        [
            EmbedImage(
                column=name,
                names=tuple(f"{name}_{i}" for i in range(size)),
                model=step.model,
                revision=revision,
                pooling=step.pooling,
                batch_size=step.batch_size,
                normalize=step.normalize,
                keep=step.keep,
            )
            for name in columns
        ]
    )


IMAGE_FEATURES: Mapping[str, Estimator] = {
    "image_statistics": Estimator(("bytes",), _build_figures),
    "image_embeddings": Estimator(("bytes",), _build_embeddings),
}
