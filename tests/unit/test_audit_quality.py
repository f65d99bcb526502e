"""Low quality: every kind planted is found, ordinary sets are left alone, thresholds follow the set."""

from __future__ import annotations

import numpy as np
import pytest

from scaletut.audit.quality import FEWEST, MEASURES, NORMAL_TAIL, judge, low_quality, measures
from scaletut.data import load
from scaletut.data.zipf import QUALITY_FAULTS
from scaletut.errors import DataError

UNSEEN = (7001, 7002, 7003, 7004, 7005)  # the thresholds were chosen on seeds 100 to 105


def planted(seed: int, n: int = 1000):
    options = ",".join(f"{fault}=0.02" for fault in QUALITY_FAULTS)
    return load(f"zipf10:{options}", seed=seed, n_train=n, n_test=1).train


def rows(found, kind):
    return {one.index for one in found if one.kind == kind}


def test_each_kind_is_found_and_nothing_else_on_five_unseen_seeds():
    right, found, there = (dict.fromkeys(QUALITY_FAULTS, 0) for _ in range(3))
    for seed in UNSEEN:
        data = planted(seed)
        flagged = low_quality(data.images)
        for kind in QUALITY_FAULTS:
            truth = set(np.flatnonzero(getattr(data.truth, kind)).tolist())
            right[kind] += len(rows(flagged, kind) & truth)
            found[kind] += len(rows(flagged, kind))
            there[kind] += len(truth)
    assert set(there.values()) == {5 * 20}
    for kind in QUALITY_FAULTS:
        assert right[kind] >= 0.95 * there[kind], (kind, right, there)
        assert right[kind] >= 0.95 * found[kind], (kind, right, found)


@pytest.mark.parametrize("options", ["a=0.5", "classes=equal,patterns=200", "a=0.2,patterns=10000"])
def test_hardly_anything_is_flagged_where_nothing_is_wrong(options):
    data = load(f"zipf10:{options}", seed=7010, n_train=2000, n_test=1).train
    assert len(low_quality(data.images)) <= 2


def test_findings_are_sorted_and_scores_are_distances():
    data = planted(3)
    found = low_quality(data.images)
    kinds = [one.kind for one in found]
    assert kinds == sorted(kinds, key=list(MEASURES).index)
    for kind in set(kinds):
        scores = [one.score for one in found if one.kind == kind]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > 1
        measure, values = MEASURES[kind], measures(data.images)[kind]
        middle, line = np.median(values), found.thresholds[kind].value
        worst = next(one for one in found if one.kind == kind)
        assert worst.score == pytest.approx((values[worst.index] - middle) / (line - middle))
        assert measure.text in found.thresholds[kind].reason


def test_thresholds_follow_the_set():
    """A set that is soft throughout is usual to itself; one soft image among sharp ones is not."""
    sharp = load("zipf10", seed=5, n_train=400, n_test=1).train.images
    soft = load("zipf10:blurred=150", seed=5, n_train=400, n_test=1).train
    soft = soft.images[soft.truth.blurred]
    assert not rows(low_quality(soft), "blurred")
    assert rows(low_quality(np.concatenate([sharp, soft[:1]])), "blurred") == {400}


def test_what_shows_nothing_is_not_judged_further():
    images = load("zipf10", seed=6, n_train=300, n_test=1).train.images.copy()
    images[0] = 0
    images[1] = 255
    images[2] = images[2] // 8
    found = low_quality(images)
    assert {(one.index, one.kind) for one in found} == {(0, "blank"), (1, "blank"), (2, "dark")}


def test_quantile_model_reproduces_known_tails():
    """The threshold is where the model says: exact for an exponential tail, beyond a normal one, by little."""
    n = 200_001
    p = (np.arange(n) + 0.5) / n
    measure = MEASURES["noisy"]
    both_sides = np.where(p < 0.5, np.log(2 * np.minimum(p, 0.5)), -np.log(2 * (1 - np.maximum(p, 0.5))))
    _, line = judge(both_sides, measure)
    assert line.value == pytest.approx(np.log(n), rel=1e-3)
    from scipy.stats import norm

    _, line = judge(norm.ppf(p), measure)
    exact = norm.isf(0.5 / n)
    assert exact < line.value < 1.4 * exact
    assert pytest.approx(0.762, abs=1e-3) == NORMAL_TAIL


def test_a_tenth_of_faults_hardly_moves_the_line():
    values = np.random.default_rng(0).standard_normal(5000)
    _, before = judge(values, MEASURES["noisy"])
    values[:250] = 50
    scores, after = judge(values, MEASURES["noisy"])
    assert before.value < after.value < 1.6 * before.value
    assert (scores[:250] > 1).all()


def test_small_sets_and_small_images():
    images = load("zipf10", n_train=FEWEST - 1, n_test=1).train.images.copy()
    images[4] = 90
    found = low_quality(images)
    assert [(one.index, one.kind) for one in found] == [(4, "blank")]
    assert found.thresholds["blurred"].value is None
    assert set(measures(images[:, :7, :7])) == {"blank", "dark", "bright"}
    assert len(low_quality(images[:1])) == 0
    assert len(low_quality(np.repeat(images[:1], 50, axis=0))) == 0  # no spread at all


def test_odd_sizes_are_told_by_the_files():
    images = load("zipf10", n_train=100, n_test=1).train.images
    sizes = np.tile([640, 480], (100, 1))
    sizes[::2] = [480, 640]  # upright is not odd
    sizes[7], sizes[8] = [32, 24], [4000, 300]
    found = low_quality(images, sizes=sizes)
    assert rows(found, "odd size") == {7, 8}
    assert "odd size" not in low_quality(images).thresholds


def test_progress_rises_to_one(monkeypatch):
    monkeypatch.setattr("scaletut.audit.quality.BLOCK", 30 * 32 * 32)
    told = []
    low_quality(load("zipf10", n_train=100, n_test=1).train.images, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1
    assert len(told) == 4


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((5, 32, 32), np.uint8),
        np.zeros((5, 3, 32, 32), np.uint8),
        np.zeros((5, 32, 32, 3), np.float32),
    ],
)
def test_anything_but_images_is_refused_in_one_line(images):
    with pytest.raises(DataError, match="uint8") as caught:
        low_quality(images)
    assert "\n" not in str(caught.value)
