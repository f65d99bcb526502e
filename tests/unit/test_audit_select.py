"""Scores and rules that choose images: against their definitions, and against the best choice where it is known."""

from itertools import combinations

import numpy as np
import pytest
import torch

from scaletut.audit.select import doubt, el2n, k_center, keep, label_margin
from scaletut.errors import DataError, ParameterError


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(300, 5)) * 3


def test_doubts_are_their_definitions(logits):
    p = torch.softmax(torch.tensor(logits), 1)
    top = p.topk(2, dim=1).values
    np.testing.assert_allclose(doubt(logits), 1 - (top[:, 0] - top[:, 1]))
    entropy = torch.distributions.Categorical(p).entropy() / np.log(5)
    np.testing.assert_allclose(doubt(logits, "entropy"), entropy, atol=1e-6)
    for kind in ("margin", "entropy"):
        sure, torn = doubt(np.array([[900.0, 0, 0], [1.0, 1, 1]]), kind)
        assert (sure, torn) == pytest.approx((0, 1))


def test_difficulties_are_their_definitions(logits):
    labels = np.random.default_rng(1).integers(0, 5, 300)
    p = torch.softmax(torch.tensor(logits), 1)
    error = p - torch.nn.functional.one_hot(torch.tensor(labels), 5)
    np.testing.assert_allclose(el2n(logits, labels), error.norm(dim=1))
    wrong = logits.argmax(1) != labels
    np.testing.assert_array_equal(label_margin(logits, labels) > 0, wrong)
    assert el2n(logits, labels)[wrong].min() > 0.7  # the label's own error alone is at least a half, others the rest


def test_k_center_is_within_twice_the_best_radius():
    """All choices of three among twelve tried: the bound of the greedy rule holds for each of ten sets."""
    for seed in range(10):
        points = np.random.default_rng(seed).normal(size=(12, 2))
        distance = np.linalg.norm(points[:, None] - points[None], axis=2)
        best = min(distance[:, list(some)].min(axis=1).max() for some in combinations(range(12), 3))
        chosen = k_center(points, 3)
        assert len(set(chosen.tolist())) == 3
        assert best <= distance[:, chosen].min(axis=1).max() <= 2 * best + 1e-6


def test_k_center_goes_where_nothing_is_chosen_yet():
    points = np.array([[0, 0], [0, 1], [10, 0], [10, 1], [0, 10.0]])
    assert k_center(points, 2, chosen=np.array([0])).tolist() == [3, 4]
    same = np.zeros((6, 3))
    assert sorted(k_center(same, 6)) == list(range(6))  # equal rows are not taken twice
    for k, chosen in ((0, None), (7, None), (5, np.array([0, 1]))):
        with pytest.raises(ParameterError, match="cannot choose"):
            k_center(same, k, chosen)
    with pytest.raises(DataError):
        k_center(np.full((3, 2), np.nan), 1)


def test_keep_takes_what_the_rule_says_and_class_by_class():
    difficulty = np.arange(100) / 100
    assert keep(difficulty, 0.2, "hardest").tolist() == list(range(80, 100))
    assert keep(difficulty, 0.2, "easiest").tolist() == list(range(20))
    labels = (difficulty >= 0.5).astype(int)
    for rule in ("hardest", "easiest", "random"):
        rows = keep(difficulty, 0.2, rule, labels=labels)
        assert np.bincount(labels[rows]).tolist() == [10, 10]
    assert keep(difficulty, 0.2, "easiest", labels=labels).tolist() == [*range(10), *range(50, 60)]
    assert keep(difficulty, 1, "random").tolist() == list(range(100))


def test_random_and_ties_follow_the_seed():
    rows = keep(np.zeros(1000), 0.5, "random", seed=1)
    assert abs(rows.mean() - 500) < 60
    assert not np.array_equal(rows, keep(np.zeros(1000), 0.5, "random", seed=2))
    np.testing.assert_array_equal(rows, keep(np.zeros(1000), 0.5, "random", seed=1))
    assert abs(keep(np.zeros(1000), 0.5, "hardest").mean() - 500) < 60  # equals are not chosen by their place


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: doubt(np.zeros((3, 2)), "regret"), ParameterError),
        (lambda: doubt(np.zeros((3, 1))), DataError),
        (lambda: el2n(np.full((2, 2), np.nan), np.zeros(2, int)), DataError),
        (lambda: el2n(np.zeros((2, 2)), np.zeros(3, int)), DataError),
        (lambda: label_margin(np.zeros((2, 2)), np.array([0, 2])), DataError),
        (lambda: keep(np.zeros(4), 0.5, "best"), ParameterError),
        (lambda: keep(np.zeros(4), 0, "random"), ParameterError),
        (lambda: keep(np.zeros(4), 0.5, "random", labels=np.zeros(3, int)), DataError),
        (lambda: keep(np.array([1, np.nan]), 0.5, "random"), DataError),
    ],
)
def test_refuses_what_it_cannot_use(call, error):
    with pytest.raises(error):
        call()
