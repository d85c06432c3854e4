"""Draws, folds, choice and gate: the parts of training that need no cluster."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from sunloom.config.tabular import AlgorithmConfig, GateConfig, RangeConfig, TuningConfig
from sunloom.errors import DataError
from sunloom.tabular.algorithms import load_algorithm
from sunloom.tabular.crossvalidation import (
    TrainingData,
    Trial,
    assign_folds,
    held_out_probabilities,
    held_out_scores,
)
from sunloom.tabular.evaluation import log_loss
from sunloom.tabular.search import TrialScore, best_of_each, choose_winner, draw_trials
from sunloom.tabular.trainer import gate_failures


def _score(name: str, loss: float, error: float = 0.01) -> TrialScore:
    return TrialScore(Trial(name, {}), loss, error, 5, 1.0)


def test_draws_are_in_their_ranges_and_follow_the_seed() -> None:
    config = AlgorithmConfig(
        name="xgboost",
        trials=30,
        fixed={"subsample": 0.8},
        search={
            "eta": RangeConfig(low=0.01, high=0.1, log=True),
            "rounds": RangeConfig(low=10, high=12, integer=True),
            "max_depth": (2, 3),
        },
    )
    trials = draw_trials([config], seed=4)
    drawn = [trial.parameters for trial in trials]
    assert len(trials) == 30
    assert all(
        0.01 <= parameters["eta"] <= 0.1 and parameters["subsample"] == 0.8 for parameters in drawn
    )
    assert {parameters["rounds"] for parameters in drawn} == {10, 11, 12}
    assert {parameters["max_depth"] for parameters in drawn} == {2, 3}
    assert {parameters["seed"] for parameters in drawn} == {4}
    assert trials == draw_trials([config], seed=4)
    assert trials != draw_trials([config], seed=5)


@pytest.mark.parametrize("bad", [{"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}])
def test_a_range_must_be_one(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="low must not exceed high"):
        RangeConfig.model_validate(bad)


def test_folds_hold_equal_shares_of_each_label() -> None:
    target = (np.arange(103) < 20).astype(float)
    folds = assign_folds(target, 5, seed=1)
    assert [int(target[folds == fold].sum()) for fold in range(5)] == [4] * 5
    assert sorted(np.bincount(folds)) == [20, 20, 21, 21, 21]
    assert (folds != assign_folds(target, 5, seed=2)).any()


def test_too_few_rows_of_a_label() -> None:
    with pytest.raises(DataError, match="2 rows with label 1 do not fill 5 folds"):
        assign_folds(np.array([0.0] * 9 + [1.0] * 2), 5, seed=0)


def test_held_out_score_is_the_loss_of_the_held_out_probabilities() -> None:
    generator = np.random.default_rng(0)
    matrix = generator.random((300, 2))
    target = (generator.random(300) < matrix[:, 0]).astype(float)
    data = TrainingData(matrix, target, assign_folds(target, 3, seed=0))
    algorithm = load_algorithm("logistic_regression")
    scores = list(held_out_scores(algorithm, data, {}))
    probability = held_out_probabilities(algorithm, data, {})
    assert [score.folds for score in scores] == [1, 2, 3]
    assert scores[-1].loss == pytest.approx(log_loss(target, probability), abs=1e-12)
    first = data.fold == 0
    refitted = algorithm.fit(matrix[~first], target[~first], {}).predict(matrix[first])
    np.testing.assert_array_equal(probability[first], refitted)


def test_the_simplest_within_one_standard_error_wins() -> None:
    scores = [_score("lightgbm", 0.500), _score("logistic_regression", 0.509)]
    assert choose_winner(scores, TuningConfig()).trial.algorithm == "logistic_regression"
    lowest = TuningConfig(selection="lowest_loss")
    assert choose_winner(scores, lowest).trial.algorithm == "lightgbm"
    far = [_score("lightgbm", 0.500), _score("logistic_regression", 0.511)]
    assert choose_winner(far, TuningConfig()).trial.algorithm == "lightgbm"


def test_best_of_each_takes_the_first() -> None:
    scores = [_score("xgboost", 0.1), _score("lightgbm", 0.2), _score("xgboost", 0.3)]
    assert {name: one.loss for name, one in best_of_each(scores).items()} == {
        "xgboost": 0.1,
        "lightgbm": 0.2,
    }


def test_the_gate_says_what_fails() -> None:
    good = {"auc": 0.81, "calibration_error": 0.02, "log_loss": 0.41, "base_log_loss": 0.54}
    assert gate_failures(good, GateConfig()) == ()
    assert gate_failures(good | {"auc": 0.806}, GateConfig()) == ("AUC 0.8060 is not above 0.806",)
    bad = good | {"auc": float("nan"), "calibration_error": 0.2, "log_loss": 0.6}
    assert len(gate_failures(bad, GateConfig())) == 3
    assert len(gate_failures(dict.fromkeys(good, float("nan")), GateConfig())) == 3
