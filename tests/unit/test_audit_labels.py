"""Label errors: judged by classifiers that did not see the image, planted ones found, nothing else."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from scaletut.audit import labels as room
from scaletut.audit.features import GRID, at_side, patch_features
from scaletut.audit.labels import assign_folds, blend, label_issues, out_of_fold, ranking, ridge_scores
from scaletut.data import load
from scaletut.errors import DataError, ParameterError

SOURCE = "zipf10:a=1,patterns=100,noise=0.15"


@pytest.fixture(scope="module")
def noisy():
    return load(SOURCE, n_train=600, n_test=1, seed=3).train


@pytest.fixture(scope="module")
def probabilities(noisy):
    return out_of_fold(noisy.images, noisy.labels, 10)


# --- features


def test_an_image_and_its_mirror_image_have_the_same_features(noisy):
    images = np.concatenate([noisy.images[:20], noisy.images[:20, :, ::-1]])
    own, mirror = np.split(patch_features(images, filters=16), 2)
    assert own.shape == (20, 16 * GRID**2)
    np.testing.assert_allclose(own, mirror, atol=1e-4)
    assert np.abs(own[0] - own[1]).max() > 0.1, "but two images have not"


def test_features_follow_the_definition(noisy):
    """One feature of one image, computed patch by patch."""
    from scaletut.audit.features import draw_filters

    images = noisy.images[:3]
    bank = draw_filters(images, 4, seed=1)
    weights, offset = bank.weights.numpy().astype(float), bank.offset.numpy().astype(float)
    response = np.zeros((27, 27, 8))
    for top in range(27):
        for left in range(27):
            x = images[2, top : top + 6, left : left + 6].astype(float).ravel()
            x -= x.mean()
            response[top, left] = np.maximum(0, x / np.sqrt(np.mean(x**2) + 10) @ weights + offset)
    cell, mirrored = response[:9, :9].mean((0, 1)), response[:9, 18:].mean((0, 1))
    expected = np.sqrt(cell[:4] + mirrored[4:])  # top left by the filters, top right by their mirror images
    np.testing.assert_allclose(patch_features(images, filters=4, seed=1)[2, :4], expected, rtol=1e-4, atol=1e-5)


def test_other_sizes_are_brought_to_one_by_area():
    checks = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (32, 32))[None, :, :, None].repeat(3, axis=3)
    small = at_side(checks)
    assert small.shape == (1, 32, 32, 3)
    assert np.abs(small.astype(int) - 127.5).max() < 16, "aliased instead of averaged"
    assert at_side(np.full((2, 5, 9, 3), 7, np.uint8)).tolist() == np.full((2, 32, 32, 3), 7).tolist()


# --- folds


def test_folds_are_balanced_and_near_duplicates_never_straddle_them():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 4, 300), rng.integers(0, 120, 300)
    fold = assign_folds(labels, 5, seed=2, groups=groups)
    assert all(len(set(fold[groups == group])) == 1 for group in range(120) if (groups == group).any())
    plain = assign_folds(labels, 5, seed=2)
    assert any(len(set(plain[groups == group])) > 1 for group in range(120))
    counts = np.array([np.bincount(plain[labels == label], minlength=5) for label in range(4)])
    assert (np.ptp(counts, axis=1) <= 1).all()


def test_a_copy_teaches_nothing_about_its_original_when_they_are_grouped():
    """Random labels can be guessed only from the copy: without groups the guess is right, with them it is chance."""
    rng = np.random.default_rng(1)
    images = load("zipf10:patterns=2000", n_train=150, n_test=1).train.images.repeat(2, axis=0)
    labels = rng.integers(0, 10, 150).repeat(2)
    loose = out_of_fold(images, labels, 10).argmax(axis=1) == labels
    tied = out_of_fold(images, labels, 10, groups=np.arange(150).repeat(2)).argmax(axis=1) == labels
    assert loose.mean() > 0.5
    assert tied.mean() < 0.25


# --- classifiers


@pytest.mark.parametrize("dimensions", [7, 90], ids=["more images", "more features"])
def test_the_shared_sums_give_scikit_learns_ridge_regression(dimensions):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, dimensions)).astype(np.float32) + 3
    labels, fold = rng.integers(0, 3, 60), rng.permutation(60) % 4
    got = ridge_scores(features.copy(), labels, 3, fold, strengths=(0.1,))
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    for number in range(4):
        out = fold == number
        peer = Ridge(alpha=0.1 * (~out).sum()).fit(features[~out], np.eye(3)[labels[~out]])
        np.testing.assert_allclose(got[out], peer.predict(features[out]), atol=2e-5)


def test_the_penalty_is_the_one_that_predicts_best():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((80, 60)).astype(np.float32)
    labels, fold = (features[:, 0] > 0).astype(np.int64), np.arange(80) % 4
    errors = {}
    for strength in (0.001, 1.0, 1000.0):
        scores = ridge_scores(features.copy(), labels, 2, fold, strengths=(strength,))
        errors[strength] = np.square(scores - np.eye(2)[labels]).sum()
    best = min(errors, key=errors.get)
    chosen = ridge_scores(features.copy(), labels, 2, fold, strengths=tuple(errors))
    assert np.square(chosen - np.eye(2)[labels]).sum() == pytest.approx(errors[best])
    assert errors[best] < 0.9 * max(errors.values())


def test_a_blend_of_noise_and_exact_scores_is_the_posterior():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 3000)
    good = 2.0 * np.eye(3)[truth] + rng.standard_normal((3000, 3))
    noise = 50 * rng.standard_normal((3000, 3))
    both = blend([noise, good], truth)
    right = np.exp(2 * good)  # Bayes: the likelihood of class k is exp(2 s_k) times what all classes share
    np.testing.assert_allclose(both, right / right.sum(axis=1, keepdims=True), atol=0.1)
    np.testing.assert_allclose(both.sum(axis=1), 1)


def test_the_network_judges_what_it_did_not_see_and_adds_to_the_patches(monkeypatch):
    """At full size on a few patterns: two folds, some steps each, in seconds."""
    monkeypatch.setattr(room, "NETWORK_BATCH", 32)
    data = load("zipf10:a=2,patterns=10,noise=0.2", n_train=240, n_test=1, seed=1).train
    told: list[float] = []
    probabilities = out_of_fold(data.images, data.labels, 10, network=True, progress=told.append)
    fold = assign_folds(data.labels, room.NETWORK_FOLDS, 0)
    scores = room.network_scores(data.images, data.labels, 10, fold, 0)
    assert (scores.argmax(axis=1) == data.truth.clean_labels).mean() > 0.8
    swapped = data.labels.copy()
    swapped[fold == 0] = (swapped[fold == 0] + 1) % 10  # what fold 0 says of itself must not reach its own scores
    again = room.network_scores(data.images, swapped, 10, fold, 0)
    np.testing.assert_array_equal(scores[fold == 0], again[fold == 0])
    assert (scores[fold == 1] != again[fold == 1]).any()
    assert (probabilities.argmax(axis=1) == data.truth.clean_labels).mean() > 0.8
    assert told == sorted(told)
    assert told[-1] == 1


# --- issues


def test_planted_errors_are_found_and_little_else(noisy, probabilities):
    wrong = noisy.labels != noisy.truth.clean_labels
    issues = label_issues(noisy.labels, probabilities)
    found = np.isin(np.arange(len(noisy)), issues.index)
    known = np.bincount(noisy.truth.pattern)[noisy.truth.pattern] >= 3
    assert wrong.sum() > 60
    assert wrong[found & known].mean() >= 0.9
    assert found[wrong & known].mean() >= 0.6
    named = noisy.truth.clean_labels[issues.index] == issues.suggested
    assert named[wrong[issues.index]].mean() >= 0.9


def test_the_ranking_puts_errors_first(noisy, probabilities):
    from sklearn.metrics import average_precision_score

    wrong = noisy.labels != noisy.truth.clean_labels
    assert average_precision_score(wrong, ranking(noisy.labels, probabilities)) >= 0.9
    assert average_precision_score(wrong, np.random.default_rng(0).random(len(wrong))) < 0.4


def test_the_ranking_is_the_mean_of_cleanlabs_two_scores(noisy, probabilities):
    from cleanlab.rank import get_label_quality_scores as quality

    peers = [quality(noisy.labels, probabilities, method=one) for one in ("self_confidence", "normalized_margin")]
    expected = 1 - (peers[0] + (2 * peers[1] - 1)) / 2 - 0.5  # cleanlab moves the margin from -1 … 1 to 0 … 1
    np.testing.assert_allclose(ranking(noisy.labels, probabilities), expected, atol=1e-9)


def test_issues_come_best_first_and_say_what_they_are(noisy, probabilities):
    issues = label_issues(noisy.labels, probabilities)
    assert len(issues) > 0
    assert (np.diff(issues.score) <= 0).all()
    assert issues.threshold == issues.score[-1]
    np.testing.assert_array_equal(issues.given, noisy.labels[issues.index])
    assert (issues.given != issues.suggested).all()
    own = probabilities[issues.index, issues.given]
    assert (probabilities[issues.index, issues.suggested] > own).all()
    assert f"{len(noisy)}: the score" in issues.reason
    assert issues.index.dtype == issues.given.dtype == issues.suggested.dtype == np.int64


def test_right_labels_raise_no_alarm():
    data = load("zipf10:a=2,patterns=20", n_train=400, n_test=1).train
    assert len(label_issues(data.labels, out_of_fold(data.images, data.labels, 10))) <= 4


def test_a_seed_decides_everything(noisy, probabilities):
    rows = slice(0, 120)
    first, again, other = (out_of_fold(noisy.images[rows], noisy.labels[rows], 10, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_few_images_a_lonely_class_and_an_empty_one():
    data = load("zipf10:patterns=20", n_train=50, n_test=1, seed=2).train
    labels = (data.labels % 2).astype(np.int64)
    labels[7] = 3  # class 2 is empty, class 3 has one image, which no other fold can teach
    probabilities = out_of_fold(data.images[:, ::2, :20], labels, 4)
    assert probabilities.shape == (50, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert 7 not in label_issues(labels, probabilities).index
    assert len(label_issues(np.zeros(50, np.int64), probabilities)) == 0, "one class has nothing to be mistaken for"


# --- refusals

IMAGES, LABELS = np.zeros((6, 32, 32, 3), np.uint8), np.array([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "options", "error", "says"),
    [
        (IMAGES, LABELS[:5], {}, DataError, r"int64 \(5,\) for 6 images"),
        (IMAGES, LABELS.astype(np.uint8), {}, DataError, "uint8"),
        (IMAGES, LABELS + 9, {}, DataError, "from 9 to 10"),
        (IMAGES, LABELS - 1, {}, DataError, "from -1 to 0"),
        (IMAGES, LABELS, {"classes": 1}, DataError, "there is 1 class"),
        (IMAGES.astype(float), LABELS, {}, DataError, "float64"),
        (IMAGES[..., 0], LABELS, {}, DataError, "channels last"),
        (IMAGES[:0], LABELS[:0], {}, ParameterError, "0 images"),
        (IMAGES, LABELS, {"folds": 7}, ParameterError, "folds=7 for 6 images"),
        (IMAGES, LABELS, {"folds": 1}, ParameterError, "use 2 to 6"),
        (IMAGES, LABELS, {"groups": np.zeros(6, int), "folds": 2}, ParameterError, "no copies"),
        (IMAGES, LABELS, {"groups": np.zeros(4, int)}, DataError, "groups are 4"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(images, labels, options, error, says):
    with pytest.raises(error, match=says) as caught:
        out_of_fold(images, labels, **{"classes": 2, **options})
    assert "\n" not in str(caught.value)


def test_without_cleanlab_the_way_out_is_named(noisy, probabilities, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.count", None)
    with pytest.raises(ParameterError, match=r"scaletut\[audit\]"):
        label_issues(noisy.labels, probabilities)


def test_featureless_images_are_judged_without_a_warning(recwarn):
    probabilities = out_of_fold(np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 2, 2)
    assert np.isfinite(probabilities).all()
    assert not [one for one in recwarn if issubclass(one.category, RuntimeWarning)]
