"""Operation on encoded images: figures such as size, brightness and a difference hash."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import polars as pl

from sunloom.data.arrays import FloatArray
from sunloom.errors import DependencyError
from sunloom.preprocessing.operations.protocol import ByValue

_PIXEL_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000",
)  # fmt: skip
_UNREADABLE = (OSError, ValueError, SyntaxError)
_LEVELS: FloatArray = np.arange(256) / 255
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
        # Palettes, alpha and 16 bits become RGB: figures of all formats compare. Counts of the 256
        # levels say as much as the pixels, in a fraction of the memory.
        colours = _level_counts(image.convert("RGB"))
        grey = _level_counts(image.convert("L"))[0]
        size = image.width * image.height
        red, green, blue = (colours @ _LEVELS / size).tolist()
        brightness = float(grey @ _LEVELS / size)
        known: dict[str, Any] = {
            "width": image.width,
            "height": image.height,
            "aspect": image.width / image.height,
            "brightness": brightness,
            "contrast": float(np.sqrt(grey @ (_LEVELS - brightness) ** 2 / size)),
            "red": red,
            "green": green,
            "blue": blue,
        }
        if "difference_hash" in self.figures:
            known["difference_hash"] = difference_hash(image)
        figures = [known[figure] for figure in self.figures]
        if self.bins:
            counts, _ = np.histogram(_LEVELS, bins=self.bins, range=(0.0, 1.0), weights=grey)
            figures += (counts / size).tolist()
        return figures


def open_image(data: bytes | None) -> Any:
    """The decoded image; None for no data, and for data that is no whole image.

    Raises:
        DependencyError: Pillow is not installed.
    """
    image = _read_header(data)
    if image is None:
        return None
    try:
        # A truncated image fails here.
        image.load()
    except _UNREADABLE:
        return None
    return image


def count_pixels(data: bytes | None) -> int:
    """Pixels of an image by its header, before any is decoded; 0 where there is no image.

    A few kilobytes of a compressed image may be gigabytes of pixels.

    Raises:
        DependencyError: Pillow is not installed.
    """
    image = _read_header(data)
    return 0 if image is None else int(image.width * image.height)


def _read_header(data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        from PIL import Image
    except ImportError as error:
        raise DependencyError("Images need Pillow.", "pip install pillow") from error
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except (*_UNREADABLE, Image.DecompressionBombError):
        return None
    return image if image.width and image.height else None


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The formats that are read: of pixels only, for some others run a program."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _PIXEL_FORMATS if name in Image.OPEN)


def _level_counts(image: Any) -> FloatArray:
    """How many pixels have each level: ``[bands, 256]``."""
    return np.asarray(image.histogram(), dtype=np.float64).reshape(-1, len(_LEVELS))


def difference_hash(image: Any) -> str:
    """64 bits: is each point of a small grey copy brighter than its left neighbour?"""
    from PIL import Image

    small = image.convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    table = np.asarray(small, dtype=np.int16)
    bits = (table[:, 1:] > table[:, :-1]).ravel()
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"
