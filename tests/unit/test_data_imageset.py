"""Image sets: what they refuse, and how truth follows the images."""

import hashlib

import numpy as np
import pytest

from scaletut.data import ImageSet, Truth
from scaletut.errors import DataError, ParameterError


def make(counts=(40, 20, 10), truth=None, seed=0):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
    return ImageSet(images, labels, ("cat", "dog", "emu")[: len(counts)], "toy", truth)


def identity(data):
    """Each image of `make` is filled with its row number."""
    return data.images[:, 0, 0, 0].astype(int)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": np.zeros((70, 4, 5, 3), np.float32)}, "float32"),
        ({"images": np.zeros((70, 3, 4, 5), np.uint8)}, "channels last"),
        ({"images": np.zeros((70, 4, 5), np.uint8)}, "height, width, 3"),
        ({"labels": np.zeros(70, np.int32)}, "int32"),
        ({"labels": np.zeros(69, np.int64)}, "70 images"),
        ({"labels": np.full(70, 3)}, "3 class names"),
        ({"labels": np.full(70, -1)}, "-1"),
    ],
)
def test_refuses_what_does_not_fit(change, says):
    good = make()
    with pytest.raises(DataError, match=says):
        ImageSet(
            **{"images": good.images, "labels": good.labels, "class_names": good.class_names, "name": "x", **change}
        )


def test_arrays_cannot_be_changed_and_the_caller_s_stay_writable():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    data = ImageSet(images, np.zeros(2, np.int64), ("a",), "x")
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 0
    images[0] = 1


def test_digest_is_of_content_alone():
    data = make()
    known = hashlib.sha256(repr(((70, 4, 5, 3), ("cat", "dog", "emu"))).encode())
    known.update(data.images.tobytes() + data.labels.tobytes())
    assert data.digest == known.hexdigest()
    assert make(truth=Truth()).digest == data.digest
    assert data.take(np.arange(70)).digest == data.digest
    assert make(seed=1).digest != data.digest  # other labels
    changed = data.images.copy()
    changed[3, 1, 1, 1] ^= 1
    assert ImageSet(changed, data.labels, data.class_names, "toy").digest != data.digest
    assert ImageSet(data.images, data.labels, ("a", "b", "c"), "toy").digest != data.digest


@pytest.mark.parametrize("n", [1, 7, 14, 35, 69])
def test_split_is_stratified_disjoint_and_repeatable(n):
    data = make()
    rest, held = data.split(n, seed=3)
    assert len(held) == n
    assert sorted([*identity(rest), *identity(held)]) == list(range(70))
    exact = data.class_counts() * n / 70
    assert (np.abs(held.class_counts() - exact) < 1).all()
    np.testing.assert_array_equal(identity(data.split(n, seed=3)[1]), identity(held))
    if n == 35:
        assert set(identity(data.split(n, seed=4)[1])) != set(identity(held))


@pytest.mark.parametrize("n", [0, 70, -1])
def test_split_refuses_impossible_sizes(n):
    with pytest.raises(ParameterError, match="1 to 69"):
        make().split(n, seed=0)


def test_per_class():
    few = make().per_class(10, seed=1)
    assert few.class_counts().tolist() == [10, 10, 10]
    assert (np.diff(identity(few)) > 0).all()
    assert set(identity(make().per_class(10, seed=2))) != set(identity(few))
    with pytest.raises(ParameterError, match="1 to 10"):
        make().per_class(11, seed=1)


def test_per_class_is_drawn_from_the_whole_class():
    picked = np.concatenate([identity(make().per_class(2, seed=seed)) for seed in range(200)])
    emus = identity(make().classes(["emu"]))
    hits = np.array([(picked == one).sum() for one in emus])
    assert hits.sum() == 400
    assert (np.abs(hits - 40) < 5 * np.sqrt(40 * 0.8)).all()  # binomial(200, 1/5), five standard deviations


def test_classes_relabels_in_the_order_asked():
    data = make()
    kept = data.classes(["emu", 0])
    assert kept.class_names == ("emu", "cat")
    assert kept.class_counts().tolist() == [10, 40]
    old = data.labels[identity(kept)]
    np.testing.assert_array_equal(kept.labels, np.where(old == 2, 0, 1))


@pytest.mark.parametrize("keep", [["gnu"], [0, 0], [0, "cat"], [3], [-1], []])
def test_classes_refuses_unknown_and_repeated(keep):
    with pytest.raises(ParameterError, match="cat, dog, emu"):
        make().classes(keep)


def test_truth_follows_its_images():
    n = 70
    copy = np.full(n, -1)
    copy[[5, 6]] = [1, 2]  # 5 copies 1, 6 copies 2
    truth = Truth(
        pattern=np.arange(n),
        clean_labels=np.arange(n) % 3,
        duplicate_of=copy,
        blurred=np.arange(n) % 2 == 0,
        near_duplicate_kind=np.array(["", "shift"] * 35),
        skipped=(("x.png", "empty"),),
    )
    taken = make(truth=truth).take([6, 5, 1, 69])
    assert taken.truth.pattern.tolist() == [6, 5, 1, 69]
    assert taken.truth.duplicate_of.tolist() == [-1, 2, -1, -1]  # image 2 was left out, 1 is now row 2
    assert taken.truth.blurred.tolist() == [True, False, False, False]
    assert taken.truth.near_duplicate_kind.tolist() == ["", "shift", "shift", "shift"]
    assert taken.truth.near_duplicate_of is None
    assert taken.skipped == (("x.png", "empty"),)
    mask = np.zeros(n, bool)
    mask[[1, 5]] = True
    assert make(truth=truth).take(mask).truth.duplicate_of.tolist() == [-1, 0]


def test_truth_after_classes_knows_labels_from_outside():
    data = make(truth=Truth(clean_labels=np.full(70, 2)))
    assert set(data.classes([0, 2]).truth.clean_labels) == {1}
    assert set(data.classes([0, 1]).truth.clean_labels) == {-1}
