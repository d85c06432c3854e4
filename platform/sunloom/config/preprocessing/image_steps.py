"""Steps of ``transformations`` about images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sunloom.config.loading.model import Model

Figure = Literal[
    "width",
    "height",
    "aspect",
    "brightness",
    "contrast",
    "red",
    "green",
    "blue",
    "difference_hash",
]


class ImageStatistics(Model):
    """Figures about an encoded image (PNG, JPEG, …), in the column's place.

    They are named ``<column>_<figure>``; all are null for a missing image and for one that cannot
    be opened. Brightness, contrast and colours lie between 0 and 1.
    """

    type: Literal["image_statistics"] = "image_statistics"
    columns: tuple[str, ...] = Field(min_length=1)
    """Columns of bytes."""
    figures: tuple[Figure, ...] = ("width", "height", "brightness", "contrast", "difference_hash")
    """Which figures; ``difference_hash`` is 16 hexadecimal digits, near for images that look
    alike."""
    histogram_bins: int = Field(default=0, ge=0, le=256)
    """Shares of the pixels by brightness, in ``<column>_histogram_<n>``; none at 0."""


class ImageEmbeddings(Model):
    """A vision model's vectors, ``<column>_0`` …, in the column's place.

    They are null for a missing image and for one that cannot be opened. The artifact holds the
    model's name and what it was when fitting (commit or fingerprint), not its weights.
    """

    type: Literal["image_embeddings"] = "image_embeddings"
    columns: tuple[str, ...] = Field(min_length=1)
    """Columns of bytes."""
    model: str
    """A folder, or a name on the hub: any model of transformers that takes images."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit that it is when fitting is kept."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """The model's own pooled output, its first token, or the mean of its last layer."""
    batch_size: int = Field(default=16, ge=1)
    """Images that go through the model at a time."""
    normalize: bool = False
    """Whether vectors have length 1."""
    keep: bool = False
    """Whether the column stays, for a later step or for whoever reads the rows."""
