"""Figures about images, and what a damaged one is."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sunloom.errors import DataError, DependencyError
from sunloom.preprocessing.fit import fit
from tests.unit.preprocessing.tables import assert_same_everywhere

Image = pytest.importorskip("PIL.Image", reason="pip install pillow")
FIGURES = ["width", "height", "aspect", "brightness", "contrast", "red", "green", "blue"]
FIGURES += ["difference_hash"]


def encoded(pixels: Any, form: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, form)
    return held.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (40, 60)) -> Any:
    """A smooth random picture [height, width, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def test_figures(tmp_path: Path) -> None:
    pixels = picture()
    whole = encoded(pixels)
    frame = pl.DataFrame({"i": [whole, None, b"no image", whole[:-40], whole], "n": range(5)})
    step = {"type": "image_statistics", "columns": ["i"], "figures": FIGURES, "histogram_bins": 4}
    prepared = assert_same_everywhere(fit([step], frame), frame, tmp_path / "a")
    bars = [f"i_histogram_{i}" for i in range(4)]
    assert prepared.columns == [*(f"i_{one}" for one in FIGURES), *bars, "n"]
    first = prepared.row(0, named=True)
    assert (first["i_width"], first["i_height"], first["i_aspect"]) == (60, 40, 1.5)
    assert first["i_red"] == pytest.approx(pixels[:, :, 0].mean() / 255)
    grey = np.asarray(Image.fromarray(pixels).convert("L")) / 255
    assert first["i_brightness"] == pytest.approx(grey.mean())
    assert first["i_contrast"] == pytest.approx(grey.std())
    assert sum(first[name] for name in bars) == pytest.approx(1)
    assert first["i_histogram_0"] == pytest.approx((grey < 0.25).mean())
    for broken in (1, 2, 3):
        assert set(prepared.drop("n").row(broken)) == {None}


def test_images_that_look_alike_have_near_hashes() -> None:
    def bits(data: bytes) -> int:
        fitted = fit([{"type": "image_statistics", "columns": ["i"]}], pl.DataFrame({"i": [data]}))
        return int(fitted.apply_row({"i": data})["i_difference_hash"], 16)

    first = bits(encoded(picture()))
    smaller = bits(encoded(picture(size=(80, 120)), "JPEG"))
    other = bits(encoded(picture(seed=1)))
    assert (first ^ smaller).bit_count() <= 6
    assert (first ^ other).bit_count() > 16


def test_other_columns_are_refused() -> None:
    with pytest.raises(DataError, match="image_statistics needs bytes"):
        fit([{"type": "image_statistics", "columns": ["i"]}], pl.DataFrame({"i": ["a.png"]}))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    step = {"type": "image_embeddings", "columns": ["i"], "model": str(tmp_path)}
    with pytest.raises(DependencyError, match="needs transformers and torch") as caught:
        fit([step], pl.DataFrame({"i": [encoded(picture())]}))
    assert caught.value.hint == "pip install 'sunloom[preparation]'"
