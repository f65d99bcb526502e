"""Metrics against scikit-learn and against cases worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from scaletut.errors import DataError
from scaletut.train import calibration_bins, report


def scored(seed: int, n: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return rng.normal(size=(n, classes)) * 2 + np.eye(classes)[labels], labels


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 12))
def test_report_agrees_with_scikit_learn(seed: int, classes: int) -> None:
    logits, labels = scored(seed, classes=classes)
    ours, predicted, every = report(logits, labels), logits.argmax(1), range(classes)
    assert ours.accuracy == pytest.approx(reference.accuracy_score(labels, predicted))
    assert (ours.confusion == reference.confusion_matrix(labels, predicted, labels=every)).all()
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    for mine, theirs in ((ours.precision, precision), (ours.recall, recall), (ours.f1, f1)):
        np.testing.assert_allclose(mine, theirs)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert ours.cross_entropy == pytest.approx(reference.log_loss(labels, probabilities, labels=every))


def test_calibration_by_hand() -> None:
    # Four examples at confidence 0.9, of which two are right: the gap is 0.4 whatever the bins.
    logits = np.log(np.array([[0.9, 0.1]] * 4))
    outcome = report(logits, np.array([0, 0, 1, 1]))
    assert outcome.calibration_error == pytest.approx(0.4)
    assert calibration_bins(logits, np.array([0, 0, 1, 1]))[:, 0].sum() == 4


def test_a_class_that_is_never_predicted_scores_zero() -> None:
    outcome = report(np.array([[1.0, 0, 0], [1.0, 0, 0]]), np.array([0, 1]))
    assert outcome.precision.tolist() == [0.5, 0, 0]
    assert outcome.recall.tolist() == [1, 0, 0]
    assert outcome.macro[1] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "n > 0"),
        (np.zeros((2, 3)), np.zeros(3, int), "labels"),
        (np.zeros((2, 3)), np.array([0, 3]), "labels run from"),
        (np.array([[np.nan, 0.0]]), np.array([0]), "diverged"),
    ],
)
def test_bad_input_is_named(logits: np.ndarray, labels: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        report(logits, labels)
