"""Each algorithm fits, and answers the same after a trip through text."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sunloom.errors import ArtifactError, NotFoundError
from sunloom.tabular.algorithms import (
    ALGORITHMS,
    Algorithm,
    algorithm_names,
    load_algorithm,
    signed_log,
)

Sample = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def sample() -> Sample:
    generator = np.random.default_rng(0)
    matrix = generator.lognormal(1, 1, (1500, 4))
    score = np.log(matrix[:, 0]) - 0.5 * np.log(matrix[:, 1])
    target = (generator.random(1500) < 1 / (1 + np.exp(-score))).astype(float)
    matrix[generator.random(1500) < 0.3, 2] = np.nan
    return matrix, target


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_text_reads_back_to_the_same_answers(name: str, sample: Sample) -> None:
    matrix, target = sample
    algorithm = load_algorithm(name)
    fitted = algorithm.fit(matrix, target, {"seed": 1})
    probability = fitted.predict(matrix)
    assert isinstance(algorithm, Algorithm)
    assert probability.shape == target.shape
    assert probability.dtype == np.float64
    assert roc_auc_score(target, probability) > 0.72
    text = fitted.dump()
    np.testing.assert_array_equal(algorithm.load(text).predict(matrix), probability)
    if algorithm.suffix == "json":
        json.loads(text)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_equal_seeds_fit_equally(name: str, sample: Sample) -> None:
    matrix, target = sample
    algorithm = load_algorithm(name)
    parameters = {"seed": 5, "subsample": 0.7, "bagging_fraction": 0.7, "bagging_freq": 1}
    first, second = (algorithm.fit(matrix, target, parameters).predict(matrix) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_logistic_regression_equals_a_sklearn_pipeline(sample: Sample) -> None:
    matrix, target = sample
    pipeline = make_pipeline(
        FunctionTransformer(signed_log),
        SimpleImputer(strategy="median", add_indicator=True),
        StandardScaler(),
        LogisticRegression(C=0.5, max_iter=1000, tol=1e-6),
    ).fit(matrix, target)
    fitted = load_algorithm("logistic_regression").fit(matrix, target, {"c": 0.5})
    expected = pipeline.predict_proba(matrix)[:, 1]
    np.testing.assert_allclose(fitted.predict(matrix), expected, atol=1e-6)


def test_logistic_regression_takes_a_constant_and_an_empty_column(sample: Sample) -> None:
    matrix, target = sample
    wide = np.column_stack([matrix, np.ones(len(target)), np.full(len(target), np.nan)])
    fitted = load_algorithm("logistic_regression").fit(wide, target, {})
    plain = load_algorithm("logistic_regression").fit(matrix, target, {})
    np.testing.assert_allclose(fitted.predict(wide), plain.predict(matrix), atol=1e-5)


def test_unknown_algorithm_lists_the_known() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'xgboost'") as caught:
        load_algorithm("xgbost")
    assert set(ALGORITHMS) <= set(caught.value.known)
    assert set(ALGORITHMS) <= set(algorithm_names())


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_damaged_text_is_an_artifact_error(name: str) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        load_algorithm(name).load("{ nothing")
