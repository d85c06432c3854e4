"""Figures about an encoded image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.errors import DependencyError
from sunloom.preprocessing.operations.protocol import RowFunction, Training

_TYPES: dict[str, Any] = {"width": pl.Int64, "height": pl.Int64, "difference_hash": pl.String}


@dataclass(frozen=True)
class ImageFigures:
    """Figures in the column's place; null where there is no image that can be opened."""

    op: ClassVar[str] = "image_figures"
    column: str
    figures: tuple[str, ...]
    bins: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads."""
        return (self.column,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        bars = [f"histogram_{i}" for i in range(self.bins)]
        return tuple(f"{self.column}_{one}" for one in (*self.figures, *bars))

    @property
    def removes(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    def columns(self, frame: pl.DataFrame, _training: Training = None, /) -> Sequence[pl.Series]:
        """One column a figure."""
        rows = [self._figures(data) for data in frame[self.column].to_list()]
        types = [_TYPES.get(figure, pl.Float64) for figure in self.figures]
        types += [pl.Float64] * self.bins
        values = zip(*rows, strict=True) if rows else [[] for _ in self.outputs]
        return [
            pl.Series(name, list(column), dtype=kind)
            for name, kind, column in zip(self.outputs, types, values, strict=True)
        ]

    def scalar(self) -> RowFunction:
        """The same for one row."""
        names = self.outputs

        def describe(row: dict[str, Any]) -> None:
            row.update(zip(names, self._figures(row.pop(self.column)), strict=True))

        return describe

    def _figures(self, data: bytes | None) -> list[Any]:
        image = opened(data)
        if image is None:
            return [None] * len(self.outputs)
        pixels: FloatArray = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
        grey: FloatArray = np.asarray(image.convert("L"), dtype=np.float64) / 255
        height, width = grey.shape
        red, green, blue = pixels.mean(axis=(0, 1)).tolist()
        known = {
            "width": width,
            "height": height,
            "aspect": width / height,
            "brightness": float(grey.mean()),
            "contrast": float(grey.std()),
            "red": red,
            "green": green,
            "blue": blue,
        }
        found = [
            difference_hash(image) if one == "difference_hash" else known[one]
            for one in self.figures
        ]
        if self.bins:
            counts, _ = np.histogram(grey, bins=self.bins, range=(0.0, 1.0))
            found += (counts / grey.size).tolist()
        return found


def opened(data: bytes | None) -> Any:
    """The decoded image; None for no data, and for data that is no whole image.

    Raises:
        DependencyError: Pillow is not installed.
    """
    if data is None:
        return None
    try:
        from PIL import Image
    except ImportError as error:
        raise DependencyError("Images need Pillow.", "pip install pillow") from error
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return image


def difference_hash(image: Any) -> str:
    """64 bits: is each point of a small grey copy brighter than its left neighbour?"""
    from PIL import Image

    small = image.convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    table = np.asarray(small, dtype=np.int16)
    bits = (table[:, 1:] > table[:, :-1]).ravel()
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"
