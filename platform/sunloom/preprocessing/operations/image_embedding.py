"""Vectors of a vision model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.errors import DataError, DependencyError, NotFoundError
from sunloom.preprocessing.operations.column_shapes import Expansion
from sunloom.preprocessing.operations.images import opened
from sunloom.preprocessing.operations.model_revision import folder_mark, hub_commit, hub_revision
from sunloom.preprocessing.operations.protocol import RowFunction, Training

Pooling = Literal["pooler", "cls", "mean"]


@lru_cache(maxsize=4)
def vision_model(name: str, revision: str | None) -> tuple[Any, Any, frozenset[str]]:
    """Image processor, model and the weights that its file lacks, once a process.

    The processor is the one of Pillow and numpy, whatever else is installed: its numbers are the
    same where a model is fitted and where it serves.

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
    asked = hub_revision(name, revision)
    try:
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", revision=asked)
        model, loaded = AutoModel.from_pretrained(name, output_loading_info=True, revision=asked)
    except (OSError, ValueError, ImportError) as error:
        raise _no_model(name, error) from error
    return processor, model.eval(), frozenset(loaded["missing_keys"])


def pinned(name: str, revision: str | None) -> str:
    """What a model is now: a folder's fingerprint, or the commit on the hub.

    Raises:
        DependencyError: transformers is not installed.
        NotFoundError: There is no such model, or the hub cannot be reached.
    """
    try:
        return folder_mark(Path(name)) if Path(name).is_dir() else hub_commit(name, revision)
    except ImportError as error:
        raise _missing_package() from error
    except (OSError, ValueError) as error:
        raise _no_model(name, error) from error


def dimensions(name: str, revision: str, pooling: Pooling) -> int:
    """Numbers of a vector, by way of one grey image.

    Raises:
        DataError: The model's file lacks weights that its vectors depend on.
    """
    from PIL import Image

    lacking = vision_model(name, revision)[2]
    used = [one for one in lacking if pooling == "pooler" or "pooler" not in one]
    if used:
        raise DataError(
            f"The model {name!r} has no weights {min(used)}: its vectors would be random.",
            "Set pooling to cls or mean." if all("pooler" in one for one in used) else "",
            "pooling",
        )
    return int(forward(name, revision, pooling, [Image.new("RGB", (64, 64), (128,) * 3)]).shape[1])


def forward(name: str, revision: str, pooling: Pooling, images: Sequence[Any]) -> FloatArray:
    """Vectors of decoded images of any size; shape [images, dimensions]."""
    processor = vision_model(name, revision)[0]
    pixels = [
        processor(images=[image.convert("RGB")], return_tensors="np")["pixel_values"]
        for image in images
    ]
    # A processor may keep the images' proportions: only equal shapes go through together.
    shapes = [one.shape for one in pixels]
    found: list[Any] = [None] * len(pixels)
    for shape in dict.fromkeys(shapes):
        places = [i for i, one in enumerate(shapes) if one == shape]
        vectors = _pooled(name, revision, pooling, np.concatenate([pixels[i] for i in places]))
        for place, vector in zip(places, vectors, strict=True):
            found[place] = vector
    return np.array(found, dtype=np.float64)


def _pooled(name: str, revision: str, pooling: Pooling, pixels: Any) -> Any:
    import torch

    model = vision_model(name, revision)[1]
    with torch.inference_mode():
        given = torch.from_numpy(pixels).to(model.dtype)
        # A model of images and texts has a way of its own to ask for an image.
        ask = getattr(model, "get_image_features", model)
        made = ask(pixel_values=given)
        if pooling == "pooler":
            chosen = getattr(made, "pooler_output", None)
            if chosen is None:
                raise DataError(
                    f"The model {name!r} has no pooled output.",
                    "Set pooling to cls or mean.",
                    "pooling",
                )
        else:
            last = made.last_hidden_state
            # [B, C, H, W] of a convolution, or [B, tokens, D].
            tokens = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last
            chosen = tokens[:, 0] if pooling == "cls" else tokens.mean(dim=1)
        return chosen.flatten(1).float().numpy()


def _missing_package() -> DependencyError:
    return DependencyError(
        "image_embeddings needs transformers and torch.", "pip install 'sunloom[preparation]'"
    )


def _no_model(name: str, error: Exception) -> NotFoundError:
    return NotFoundError(
        f"There is no vision model {name!r}: {str(error).splitlines()[0]}",
        "Name a folder that holds one with its preprocessor_config.json, or a model of the hub "
        "where it can be reached.",
        "model",
    )


@dataclass(frozen=True)
class EmbedImage(Expansion):
    """An image's vector in the column's place; null where no image can be opened.

    Attributes:
        column: The column.
        names: One a dimension.
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
        """One column a dimension."""
        table = np.full((frame.height, len(self.names)), np.nan)
        column = frame[self.column]
        for start in range(0, frame.height, self.batch_size):
            batch = column[start : start + self.batch_size].to_list()
            images = {start + i: opened(data) for i, data in enumerate(batch)}
            places = [place for place, image in images.items() if image is not None]
            if places:
                table[places] = self._vectors([images[place] for place in places])
        return [
            pl.Series(name, table[:, i], dtype=pl.Float64, nan_to_null=True)
            for i, name in enumerate(self.names)
        ]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        column, names, keep = self.column, self.names, self.keep

        def embed(row: dict[str, Any]) -> None:
            image = opened(row[column] if keep else row.pop(column))
            if image is None:
                row.update(dict.fromkeys(names))
            else:
                row.update(zip(names, self._vectors([image])[0].tolist(), strict=True))

        return embed

    def _vectors(self, images: Sequence[Any]) -> FloatArray:
        found = forward(self.model, self.revision, self.pooling, images)
        if self.normalize:
            lengths = np.sqrt(np.square(found).sum(axis=1, keepdims=True))
            found = found / np.where(lengths == 0, 1.0, lengths)
        return found
