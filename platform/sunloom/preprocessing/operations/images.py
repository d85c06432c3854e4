"""Operation on encoded images: figures such as size, brightness and a difference hash."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.errors import DependencyError
from sunloom.preprocessing.operations.protocol import ByValue

_TYPES: dict[str, Any] = {"width": pl.Int64, "height": pl.Int64, "difference_hash": pl.String}


@dataclass(frozen=True)
class ImageFigures(ByValue):
    """Figures in the column's place; null where there is no image that can be decoded.

    Attributes:
        column: The column of bytes.
        figures: Which figures.
        bins: Bins of the brightness histogram, appended.
    """

    op: ClassVar[str] = "image_figures"
    figures: tuple[str, ...]
    bins: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns that it makes."""
        histogram = [f"histogram_{i}" for i in range(self.bins)]
        return tuple(f"{self.column}_{figure}" for figure in (*self.figures, *histogram))

    @property
    def removes(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    @property
    def dtypes(self) -> Sequence[Any]:
        """Type of each figure."""
        return [_TYPES.get(figure, pl.Float64) for figure in self.figures] + [
            pl.Float64
        ] * self.bins

    def describe(self, value: Any) -> Sequence[Any]:
        """The figures of an image's bytes."""
        image = open_image(value)
        if image is None:
            return [None] * len(self.outputs)
        # Palettes, alpha and 16 bits become RGB: figures of all formats compare.
        pixels: FloatArray = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
        grey: FloatArray = np.asarray(image.convert("L"), dtype=np.float64) / 255
        height, width = grey.shape
        red, green, blue = pixels.mean(axis=(0, 1)).tolist()
        known: dict[str, Any] = {
            "width": width,
            "height": height,
            "aspect": width / height,
            "brightness": float(grey.mean()),
            "contrast": float(grey.std()),
            "red": red,
            "green": green,
            "blue": blue,
        }
        if "difference_hash" in self.figures:
            known["difference_hash"] = difference_hash(image)
        figures = [known[figure] for figure in self.figures]
        if self.bins:
            counts, _ = np.histogram(grey, bins=self.bins, range=(0.0, 1.0))
            figures += (counts / grey.size).tolist()
        return figures


def open_image(data: bytes | None) -> Any:
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
        # open() reads the header only: a truncated image fails here.
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
