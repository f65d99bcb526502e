"""Several labellers, one label: against the definition, crowd-kit, and labellers whose errors are known."""

from itertools import pairwise

import numpy as np
import pytest

from scaletut.audit.votes import dawid_skene, majority
from scaletut.errors import DataError

K = 4


def answered(seed=0, n=3000, missing=0.0):
    """Truth, and the answers of a good labeller, two middling ones, and one who is systematically wrong."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, K, n)
    confusion = np.empty((4, K, K))
    for labeller, right in enumerate((0.85, 0.7, 0.6)):
        confusion[labeller] = (1 - right) / (K - 1)
        confusion[labeller][np.eye(K, dtype=bool)] = right
    confusion[3] = np.roll(confusion[0], 1, axis=1)  # nearly always the next class: a majority is misled, EM is not
    cumulative = confusion.cumsum(axis=2)[:, truth]
    answers = (draw.random((4, n, 1)) > cumulative).sum(axis=2).T
    silent = draw.random(answers.shape) < missing
    silent[:, 0] = False
    return truth, np.where(silent, -1, answers), confusion


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_likeliest_labels_beat_the_majority_and_know_who_errs_how(missing):
    truth, answers, confusion = answered(missing=missing)
    found = dawid_skene(answers, K)
    right = np.mean(found.labels == truth)
    given = answers[:, :, None] == np.arange(K)
    best = np.einsum("njl,jkl->nk", given, np.log(confusion)).argmax(axis=1)  # with the true matrices: the ceiling
    assert right > np.mean(majority(answers, K).labels == truth) + 0.03
    assert right > np.mean(best == truth) - 0.015
    np.testing.assert_allclose(found.confusion, confusion, atol=0.07)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert abs(found.probabilities.max(axis=1).mean() - right) < 0.03  # it knows how sure it may be


def test_likelihood_never_falls():
    likelihood = dawid_skene(answered(1)[1], K).log_likelihood
    assert len(likelihood) > 3
    assert all(after >= before - 1e-6 for before, after in pairwise(likelihood))


def test_posterior_is_bayes_rule_at_the_fitted_matrices():
    """Written out as loops for a handful of images."""
    _, answers, _ = answered(2, n=400)
    found = dawid_skene(answers, K)
    prior = found.probabilities.mean(axis=0)
    for row in range(20):
        joint = np.array(
            [prior[k] * np.prod([found.confusion[j, k, answers[row, j]] for j in range(4)]) for k in range(K)]
        )
        np.testing.assert_allclose(found.probabilities[row], joint / joint.sum(), atol=2e-3)


def test_agrees_with_crowd_kit():
    aggregation = pytest.importorskip(
        "crowdkit.aggregation", reason="crowd-kit is not installed: Dawid-Skene goes without its second opinion"
    )
    import pandas as pd

    _, answers, _ = answered(3, n=800, missing=0.1)
    task, worker = np.nonzero(answers >= 0)
    table = pd.DataFrame({"task": task, "worker": worker, "label": answers[task, worker]})
    theirs = aggregation.DawidSkene(n_iter=80, tol=1e-9).fit_predict_proba(table).sort_index()
    ours = dawid_skene(answers, K)
    np.testing.assert_allclose(
        ours.probabilities, theirs[list(range(K))].to_numpy(), atol=0.01
    )  # rounds end at other points
    votes = aggregation.MajorityVote().fit_predict_proba(table).sort_index()[list(range(K))].to_numpy()
    np.testing.assert_allclose(majority(answers, K).probabilities, votes, atol=1e-9)


def test_majority_breaks_ties_at_random_and_the_same_way_again():
    answers = np.tile([[0, 1]], (2000, 1))
    labels = majority(answers, 3, seed=5).labels
    assert set(labels) == {0, 1}
    assert abs(labels.mean() - 0.5) < 5 * 0.5 / np.sqrt(2000)
    np.testing.assert_array_equal(labels, majority(answers, 3, seed=5).labels)
    assert (majority(np.array([[2, 1, 2], [0, -1, -1]]), 3).labels == [2, 0]).all()


@pytest.mark.parametrize("combine", [majority, dawid_skene])
@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (np.zeros(5, int), "whole numbers"),
        (np.zeros((5, 2)), "whole numbers"),
        (np.zeros((0, 2), int), "whole numbers"),
        (np.array([[0, 4]]), "0 to 3"),
        (np.array([[0, -2]]), "0 to 3"),
        (np.array([[0, 1], [-1, -1]]), "row 1"),
    ],
)
def test_refuses_what_are_no_answers(combine, answers, says):
    with pytest.raises(DataError, match=says):
        combine(answers, K)
