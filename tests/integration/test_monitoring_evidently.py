"""Evidently's report: its PSI equals ours, its HTML is written, no id is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sunloom.config.data import DriftConfig, FeatureBound
from sunloom.data.quality.drift import DriftBound, drift_report, evidently_values
from sunloom.data.quality.drift_statistics import BINNING, column_distance

pytestmark = pytest.mark.integration


def _table(seed: int, rows: int) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    skewed = generator.lognormal(seed * 0.3, 1.5, rows)
    holed = np.where(generator.random(rows) < 0.4, np.nan, generator.normal(seed, 2, rows))
    return pl.DataFrame(
        {
            "customer_id": generator.integers(4_000_000, 5_000_000, rows),
            "skewed": skewed,
            "rare": generator.choice([0, 1, 2, 30], rows, p=[0.9, 0.0999, 0.00005, 0.00005]),
            "few": generator.integers(0, 5 + seed * 3, rows),
            "holed": pl.Series(holed).fill_nan(None),
            "apart": generator.normal(seed * 50, 1, rows),
        }
    )


def test_direct_psi_equals_evidentlys() -> None:
    reference, current = _table(0, 30_000), _table(1, 7_000)
    direct = drift_report(reference, current, DriftConfig(engine="direct"))
    theirs = drift_report(reference, current, DriftConfig(engine="evidently"))
    names = ["skewed", "rare", "few", "holed", "apart"]
    assert [feature.feature for feature in theirs.features] == names
    assert [feature.value for feature in direct.features] == pytest.approx(
        [feature.value for feature in theirs.features], abs=1e-9
    )
    assert [feature.drifted for feature in direct.features] == [
        feature.drifted for feature in theirs.features
    ]
    assert {feature.binning for feature in theirs.features} == {BINNING}


@pytest.mark.parametrize("method", ["psi", "jensenshannon", "kl_div", "wasserstein", "ks"])
def test_every_statistic_computed_directly_equals_evidentlys(method: str) -> None:
    reference, current = _table(0, 9_000), _table(1, 4_000)
    names = ["skewed", "rare", "few", "holed", "apart"]
    theirs = evidently_values(
        reference, current, dict.fromkeys(names, DriftBound(method, 0.1)), None
    )[0]
    ours = {name: column_distance(method, reference[name], current[name]) for name in names}
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("method", ["psi", "jensenshannon", "kl_div"])
def test_statistics_of_text_equal_evidentlys(method: str) -> None:
    random = np.random.default_rng(3)
    before = pl.DataFrame({"kind": random.choice(["a", "b", "c"], 900, p=[0.5, 0.3, 0.2])})
    after = pl.DataFrame({"kind": [*random.choice(["a", "b", "new"], 700), None, None]})
    theirs = evidently_values(before, after, {"kind": DriftBound(method, 0.1)}, None)[0]["kind"]
    assert column_distance(method, before["kind"], after["kind"]) == pytest.approx(theirs, abs=1e-9)


def test_methods_thresholds_and_html(tmp_path: Path) -> None:
    config = DriftConfig(
        method="wasserstein",
        threshold=0.1,
        features=("skewed", "few"),
        per_feature={"few": FeatureBound(method="ks", threshold=0.05)},
    )
    reference = _table(0, 3_000)
    moved = drift_report(reference, _table(1, 3_000), config, tmp_path)
    same = drift_report(reference, _table(0, 3_000), config)
    assert [(one.feature, one.method, one.drifted) for one in moved.features] == [
        ("skewed", "wasserstein", True),
        ("few", "ks", True),
    ]
    assert moved.features[1].value < 0.05
    assert [(one.value, one.drifted) for one in same.features] == [(0.0, False), (1.0, False)]
    assert moved.html is not None
    page = moved.html.read_text()
    assert "skewed" in page
    assert "customer_id" not in page
