"""Operation that embeds images by a vision model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError, DependencyError, NotFoundError
from sunloom.preprocessing.operations.column_shapes import Expansion
from sunloom.preprocessing.operations.images import open_image
from sunloom.preprocessing.operations.model_revision import (
    folder_revision,
    hub_commit,
    hub_revision,
)
from sunloom.preprocessing.operations.number_columns import column_of
from sunloom.preprocessing.operations.protocol import RowFunction, Training

Pooling = Literal["pooler", "cls", "mean"]


class VisionModel(NamedTuple):
    """A loaded model: its image processor, and the weights that its file lacks."""

    processor: Any
    model: Any
    missing_weights: frozenset[str]


@lru_cache(maxsize=4)
def vision_model(name: str, revision: str | None) -> VisionModel:
    """The model, cached per process.

    Args:
        name: A folder, or a name on the hub.
        revision: Branch, tag or commit on the hub, or a folder's fingerprint.

    Raises:
        DependencyError: transformers is not installed.
        NotFoundError: There is no such model, or the hub cannot be reached.
        ArtifactError: The folder's files are not those of the fingerprint.
    """
    try:
        from transformers import AutoImageProcessor, AutoModel
    except ImportError as error:
        raise _missing_package() from error
    revision = hub_revision(name, revision)
    try:
        # Pillow and numpy whatever else is installed, so that pixels are the same where a model
        # is fitted and where it serves.
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", revision=revision)
        model, info = AutoModel.from_pretrained(name, output_loading_info=True, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise _unknown_model(name, error) from error
    return VisionModel(processor, model.eval(), frozenset(info["missing_keys"]))


def vision_revision(name: str, revision: str | None) -> str:
    """A model's revision now: a folder's fingerprint, or the commit on the hub.

    Raises:
        DependencyError: transformers is not installed.
        NotFoundError: There is no such model, or the hub cannot be reached.
    """
    try:
        return folder_revision(Path(name)) if Path(name).is_dir() else hub_commit(name, revision)
    except ImportError as error:
        raise _missing_package() from error
    except (OSError, ValueError) as error:
        raise _unknown_model(name, error) from error


def embedding_size(name: str, revision: str, pooling: Pooling) -> int:
    """Dimensions of a vector, measured on one grey image.

    Raises:
        DataError: The model's file lacks weights that its vectors depend on.
    """
    from PIL import Image

    missing = vision_model(name, revision).missing_weights
    used = [weight for weight in missing if pooling == "pooler" or "pooler" not in weight]
    if used:
        raise DataError(
            f"The model {name!r} has no weights {min(used)}: its vectors would be random.",
            "Set pooling to cls or mean." if all("pooler" in weight for weight in used) else "",
            "pooling",
        )
    grey = Image.new("RGB", (64, 64), (128,) * 3)
    return int(embed_images(name, revision, pooling, [grey]).shape[1])


def embed_images(name: str, revision: str, pooling: Pooling, images: Sequence[Any]) -> FloatArray:
    """Vectors of decoded images of any size; shape [images, dimensions]."""
    processor = vision_model(name, revision).processor
    pixels = [
        processor(images=[image.convert("RGB")], return_tensors="np")["pixel_values"]
        for image in images
    ]
    # A processor may keep the images' proportions: only equal shapes go through together.
    shapes = [array.shape for array in pixels]
    vectors: list[Any] = [None] * len(pixels)
    for shape in dict.fromkeys(shapes):
        places = [i for i, other in enumerate(shapes) if other == shape]
        batch = np.concatenate([pixels[i] for i in places])
        for place, vector in zip(places, _pool(name, revision, pooling, batch), strict=True):
            vectors[place] = vector
    return np.array(vectors, dtype=np.float64)


def _pool(name: str, revision: str, pooling: Pooling, pixels: Any) -> Any:
    """Vectors [B, D] of a batch of pixels [B, C, H, W]."""
    import torch

    model = vision_model(name, revision).model
    with torch.inference_mode():
        # A model of images and text (CLIP) has a method of its own for images alone.
        forward = getattr(model, "get_image_features", model)
        output = forward(pixel_values=torch.from_numpy(pixels).to(model.dtype))
        if pooling == "pooler":
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:
                raise DataError(
                    f"The model {name!r} has no pooled output.",
                    "Set pooling to cls or mean.",
                    "pooling",
                )
        else:
            last = output.last_hidden_state
            # [B, C, H, W] of a convolution, or [B, tokens, D].
            tokens = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last
            pooled = tokens[:, 0] if pooling == "cls" else tokens.mean(dim=1)
        return pooled.flatten(1).float().numpy()


def _missing_package() -> DependencyError:
    return DependencyError(
        "image_embeddings needs transformers and torch.", "pip install 'sunloom[preparation]'"
    )


def _unknown_model(name: str, error: Exception) -> NotFoundError:
    return NotFoundError(
        f"There is no vision model {name!r}: {str(error).splitlines()[0]}",
        "Name a folder that holds one with its preprocessor_config.json, or a model of the hub "
        "where it can be reached.",
        "model",
    )


@dataclass(frozen=True)
class EmbedImage(Expansion):
    """An image's vector in the column's place; null where no image can be decoded.

    Attributes:
        column: The column.
        names: One per dimension.
        model: The model's name.
        revision: Its commit, or its folder's fingerprint.
        pooling: Which of the model's outputs.
        batch_size: Images that go through the model at a time.
        normalize: Whether vectors have length 1.
        keep: Whether the column stays.
    """

    op: ClassVar[str] = "embed_image"
    model: str
    revision: str
    pooling: Pooling = "pooler"
    batch_size: int = 16
    normalize: bool = False
    keep: bool = False

    @property
    def removes(self) -> tuple[str, ...]:
        """The column, unless it is kept."""
        return () if self.keep else (self.column,)

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column per dimension."""
        table = np.full((frame.height, len(self.names)), np.nan)
        column = frame[self.column]
        # Decoded a batch at a time: a whole column of decoded images may exceed the memory.
        for start in range(0, frame.height, self.batch_size):
            batch = column[start : start + self.batch_size].to_list()
            images = {start + i: open_image(data) for i, data in enumerate(batch)}
            places = [place for place, image in images.items() if image is not None]
            if places:
                table[places] = self._embed([images[place] for place in places])
        return [column_of(name, table[:, i]) for i, name in enumerate(self.names)]

    def row_function(self) -> RowFunction:
        """The same for one row."""
        column, names, keep = self.column, self.names, self.keep

        def embed(row: dict[str, Any]) -> None:
            image = open_image(row[column] if keep else row.pop(column))
            if image is None:
                row.update(dict.fromkeys(names))
            else:
                row.update(zip(names, self._embed([image])[0].tolist(), strict=True))

        return embed

    def _embed(self, images: Sequence[Any]) -> FloatArray:
        vectors = embed_images(self.model, self.revision, self.pooling, images)
        if self.normalize:
            lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
            vectors = vectors / np.where(lengths == 0, 1.0, lengths)
        return vectors
