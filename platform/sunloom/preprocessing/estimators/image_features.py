"""Estimators of image steps: nothing is learnt, but models are pinned to a revision."""

from __future__ import annotations

from collections.abc import Mapping

from sunloom.config.preprocessing.image_steps import ImageEmbeddings, ImageStatistics
from sunloom.preprocessing.estimators.protocol import Estimator, for_each_column
from sunloom.preprocessing.operations.image_embedding import (
    EmbedImage,
    embedding_size,
    vision_revision,
)
from sunloom.preprocessing.operations.images import ImageFigures


def _figures_of(step: ImageStatistics, name: str, _nothing: None) -> ImageFigures:
    return ImageFigures(name, step.figures, step.histogram_bins)


def _embedding_of(step: ImageEmbeddings, name: str, _nothing: None) -> EmbedImage:
    # The model is loaded once per process: a second column costs a fingerprint.
    revision = vision_revision(step.model, step.revision)
    size = embedding_size(step.model, revision, step.pooling)
    return EmbedImage(
        column=name,
        names=tuple(f"{name}_{i}" for i in range(size)),
        model=step.model,
        revision=revision,
        pooling=step.pooling,
        batch_size=step.batch_size,
        normalize=step.normalize,
        keep=step.keep,
    )


IMAGE_FEATURES: Mapping[str, Estimator] = {
    "image_statistics": Estimator(("bytes",), for_each_column(_figures_of)),
    "image_embeddings": Estimator(("bytes",), for_each_column(_embedding_of)),
}
