"""Every figure equals scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve

from sunloom.errors import DataError
from sunloom.tabular.evaluation import ReliabilityBin, best_threshold, evaluate, reliability


def _sample(rows: int = 4000, decimals: int = 17) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    probability = generator.beta(1, 3, rows).round(decimals)
    return (generator.random(rows) < probability).astype(float), probability


@pytest.mark.parametrize("decimals", [17, 1], ids=["distinct", "many ties"])
def test_figures_equal_sklearn(decimals: int) -> None:
    target, probability = _sample(decimals=decimals)
    evaluation = evaluate(target, probability)
    rate = target.mean()
    assert evaluation.auc == pytest.approx(roc_auc_score(target, probability), abs=1e-12)
    assert evaluation.log_loss == pytest.approx(log_loss(target, probability), abs=1e-12)
    assert evaluation.brier == pytest.approx(brier_score_loss(target, probability), abs=1e-12)
    assert evaluation.base_rate == rate
    base = np.full_like(target, rate)
    assert evaluation.base_log_loss == pytest.approx(log_loss(target, base), abs=1e-12)
    assert evaluation.base_brier == pytest.approx(brier_score_loss(target, base), abs=1e-12)


def test_reliability_equals_sklearns_calibration_curve() -> None:
    target, probability = _sample()
    observed, predicted = calibration_curve(target, probability, n_bins=10, strategy="uniform")
    evaluation = evaluate(target, probability)
    np.testing.assert_allclose(
        [b.observed_rate for b in evaluation.reliability], observed, atol=1e-12
    )
    np.testing.assert_allclose(
        [b.mean_probability for b in evaluation.reliability], predicted, atol=1e-12
    )
    counts = np.array([b.count for b in evaluation.reliability])
    assert counts.sum() == len(target)
    expected = (counts * np.abs(observed - predicted)).sum() / len(target)
    assert evaluation.calibration_error == pytest.approx(expected, abs=1e-12)


def test_reliability_places_edges_and_leaves_empty_bins_out() -> None:
    target, probability = np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.5, 1.0])
    assert reliability(target, probability, bins=2) == (
        ReliabilityBin(0.0, 0.5, 1, 0.0, 0.0),
        ReliabilityBin(0.5, 1.0, 2, 0.75, 1.0),
    )
    assert len(reliability(target, np.array([0.05, 0.05, 0.95]), bins=10)) == 2


def test_certain_and_wrong_is_finite() -> None:
    evaluation = evaluate(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert evaluation.log_loss == pytest.approx(log_loss([1, 0], [0.0, 1.0]), rel=1e-6)
    assert evaluation.auc == 0.0


def test_auc_of_one_label_is_undefined() -> None:
    assert np.isnan(evaluate(np.zeros(3), np.array([0.1, 0.2, 0.3])).auc)


@pytest.mark.parametrize("bad", [float("nan"), 1.2, -0.1])
def test_a_probability_must_be_one(bad: float) -> None:
    with pytest.raises(DataError, match="outside 0 and 1"):
        evaluate(np.array([0.0, 1.0]), np.array([0.5, bad]))


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="2 labels cannot judge 1"):
        evaluate(np.array([0.0, 1.0]), np.array([0.5]))


@pytest.mark.parametrize("decimals", [17, 1], ids=["distinct", "many ties"])
def test_threshold_is_youdens(decimals: int) -> None:
    target, probability = _sample(decimals=decimals)
    false, true, cuts = roc_curve(target, probability, drop_intermediate=False)
    chosen = best_threshold(target, probability)
    predicted = probability >= chosen
    gain = predicted[target == 1].mean() - predicted[target == 0].mean()
    assert gain == pytest.approx((true - false).max(), abs=1e-12)
    assert chosen == cuts[np.argmax(true - false)]
